import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.opensearch.Version;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.http.HttpServerTransport;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.Plugin;
import org.opensearch.plugins.PluginInfo;

/**
 * A real OpenSearch node, 2.x or 3.x, for tests, without the bootstrap of a production server (its checks of root and of kernel settings).
 * Arguments: HOME, then settings as key=value. HOME/ready holds "host:port" while it runs; it ends on SIGTERM, or with the process
 * named by -Dparent.pid.
 */
public class LiveNode {
    /** The class of a module is this and "Plugin" (2.x) or "ModulePlugin" (3.x). */
    private static final List<String> MODULES = List.of(
        "org.opensearch.transport.Netty4", "org.opensearch.index.reindex.Reindex", "org.opensearch.analysis.common.CommonAnalysis",
        "org.opensearch.painless.Painless", "org.opensearch.index.mapper.MapperExtras");

    private static final class WithModules extends Node {
        @SuppressWarnings({"unchecked", "rawtypes"})   // of Class in 2.x, of PluginInfo in 3.x
        WithModules(Environment environment, Collection modules) { super(environment, modules, false); }
    }

    private static Object module(String name) throws ClassNotFoundException {
        if (Version.CURRENT.major < 3) return Class.forName(name + "Plugin").asSubclass(Plugin.class);
        Class<?> found;
        try {
            found = Class.forName(name + "ModulePlugin");
        } catch (ClassNotFoundException otherwise) {
            found = Class.forName(name + "Plugin");
        }
        return new PluginInfo(found.getName(), "module", Version.CURRENT.toString(), Version.CURRENT,
            String.valueOf(Runtime.version().feature()), found.getName(), null, List.of(), false);
    }

    public static void main(String[] arguments) {
        try {
            run(arguments);
        } catch (Throwable broken) {   // the node's own threads would keep the process
            broken.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String[] arguments) throws Exception {
        Path home = Path.of(arguments[0]).toAbsolutePath(), ready = home.resolve("ready");
        Files.createDirectories(home.resolve("config"));
        Files.deleteIfExists(ready);
        Settings.Builder settings = Settings.builder()
            .put("path.home", home.toString()).put("cluster.name", "live").put("node.name", "live-0")
            .put("discovery.type", "single-node").put("network.host", "127.0.0.1").put("http.port", "0").put("transport.port", "0")
            .put("cluster.routing.allocation.disk.threshold_enabled", false)   // or the disk monitor sets and lifts blocks by itself
            .put("indices.breaker.total.use_real_memory", false)               // or a small heap's garbage answers 429
            .put("node.store.allow_mmap", false);
        for (String pair : Arrays.asList(arguments).subList(1, arguments.length)) {
            int equals = pair.indexOf('=');
            settings.put(pair.substring(0, equals), pair.substring(equals + 1));
        }
        List<Object> modules = new ArrayList<>();
        for (String name : MODULES) modules.add(module(name));
        Node node = new WithModules(InternalSettingsPreparer.prepareEnvironment(settings.build(), Map.of(), null, () -> "live-0"), modules);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                Files.deleteIfExists(ready);
                node.close();
            } catch (Exception broken) {
                broken.printStackTrace();
            }
        }));
        Long parent = Long.getLong("parent.pid");
        if (parent != null) {
            ProcessHandle.of(parent).ifPresentOrElse(process -> process.onExit().thenRun(() -> System.exit(0)), () -> System.exit(0));
        }
        node.start();
        if (node.client().admin().cluster().prepareHealth().setWaitForYellowStatus().setTimeout("60s").get().isTimedOut()) {
            throw new IllegalStateException("the cluster was not yellow after 60 s");
        }
        String address = node.injector().getInstance(HttpServerTransport.class).boundAddress().publishAddress().toString();
        Files.writeString(home.resolve("ready.new"), address);
        Files.move(home.resolve("ready.new"), ready, StandardCopyOption.ATOMIC_MOVE);
        new CountDownLatch(1).await();
    }
}
