"""Builds the documentation as a static site, strictly: a broken link or anchor is an error. `make docs` runs it.

The pages stand where they stand in the repository, so their links hold in both. What the code knows is made here, at each build, and stands
in no file: the commands from the command line, the config keys from the schema. The site asks nothing of other hosts.

    python docs/site.py --out dist/docs
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "docs",
    "deploy",
    "examples",
    "tests/docs",
    "Makefile",
    "constraints.txt",
)
"""What pages are made of, and what they link to."""

CONF = """
project = "dsqlcdc"
copyright = "the authors of dsqlcdc, Apache License 2.0"
html_title = "dsqlcdc"
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["**/node_modules"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
myst_heading_anchors = 4
myst_links_external_new_tab = False
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]
pygments_style = "default"
pygments_dark_style = "monokai"
"""

MENUS: dict[str, list[str]] = {
    "Begin": ["docs/start", "README", "docs/concepts", "docs/guarantees", "docs/outcomes", "docs/migration"],
    "Sinks": [f"docs/sinks/{name}" for name in ("index", "s3", "opensearch", "webhook", "builtin", "custom")],
    "Run it": ["docs/deploying", "docs/lambda", "docs/operating", "docs/dead-letters", "docs/gaps", "docs/runbook/README", "deploy/README"],
    "Look up": ["commands", "config", "docs/errors/index", "docs/reference"],
    "Examples and project": ["examples/README", "CHANGELOG", "CONTRIBUTING"],
}
"""The menu: pages by caption. Another page of docs/ comes at the end of "Run it"."""


def build(out: Path, *, pages: Mapping[str, str] | None = None) -> int:
    """Build the site into `out`, an empty or former one; the generator's exit code, not 0 where anything is wrong.

    `pages`: further pages by their name, or others in the place of those of the repository.
    """
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory(prefix="dsqlcdc-docs-") as folder:
        source = Path(folder) / "source"
        stage(source)
        for name, text in (pages or {}).items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text, encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Sphinx's own deprecations are its plugins' business; what it says of pages are no Python warnings
            return build_main(["-q", "-W", "--keep-going", "-n", "-b", "html", "-d", f"{folder}/doctrees", str(source), str(out)])


def stage(source: Path) -> None:
    """The tree of pages that the generator reads."""
    for name in PAGES:
        there = ROOT / name
        if there.is_dir():
            shutil.copytree(there, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there, source / name)
    for path in [*source.rglob("*.md")]:
        path.write_text(_folders(path, source), encoding="utf-8")
    (source / "conf.py").write_text(CONF, encoding="utf-8")
    first = source / "docs" / "index.md"
    (source / "index.md").write_text(
        re.sub(r"\]\((?!https?:)", "](docs/", first.read_text(encoding="utf-8")) + _menu(source), encoding="utf-8"
    )
    first.unlink()
    (source / "commands.md").write_text(commands(), encoding="utf-8")
    (source / "config.md").write_text(config(), encoding="utf-8")
    _listed(source)


def _menu(source: Path) -> str:
    named = {name for names in MENUS.values() for name in names}
    others = sorted(
        f"docs/{path.stem}" for path in (source / "docs").glob("*.md") if path.stem != "index" and f"docs/{path.stem}" not in named
    )
    text = ""
    for caption, names in MENUS.items():
        pages = "\n".join([*names, *(others if caption == "Run it" else ())])
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n{pages}\n```\n"
    return text


def _folders(path: Path, source: Path) -> str:
    """A page's text with links to folders leading to the page of the folder, where it has one, else to the first file in it."""

    def lead(match: re.Match[str]) -> str:
        target = (path.parent / match[1]).resolve()
        if target == (source / "docs" / "index.md").resolve():
            return f"]({os.path.relpath(source / 'index.md', path.parent)})"
        if "://" in match[1] or not target.is_dir() or not target.is_relative_to(source.resolve()):
            return match[0]
        inside = next((name for name in ("README.md", "index.md") if (target / name).exists()), "")
        inside = inside or sorted(file.name for file in target.iterdir() if file.is_file())[0]
        return f"]({match[1].rstrip('/')}/{inside})"

    return re.sub(r"\]\(([^)#\s]+)\)", lead, path.read_text(encoding="utf-8"))


def _listed(source: Path) -> None:
    """Pages below another get into its menu: the generator wants every page to be in one."""
    for parent, inner in (("docs/errors/index.md", "*"), ("docs/runbook/README.md", "*"), ("examples/README.md", "*/*")):
        path = source / parent
        names = sorted(file.relative_to(path.parent).with_suffix("").as_posix() for file in path.parent.glob(f"{inner}.md") if file != path)
        menu = "\n".join(names)
        path.write_text(f"{path.read_text(encoding='utf-8')}\n```{{toctree}}\n:hidden:\n{menu}\n```\n", encoding="utf-8")


# made of the code ---------------------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its help, as the command line prints it."""
    parts = [
        "# Commands",
        "",
        "As `--help` prints them. All take `--json`; stdout is data, stderr is talk. Exit codes: [README](README.md#commands).",
        "",
    ]
    for words in command_words():
        parts += [f"## {' '.join(words)}", "", "```text", help_of(words), "```", ""]
    return "\n".join(parts)


def command_words() -> Iterator[tuple[str, ...]]:
    """Every command that does something: its words."""
    import typer
    from typer.core import TyperGroup

    from dsqlcdc.cli.app import app

    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="dsqlcdc")
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if isinstance(command, TyperGroup):
            yield from ((name, inner) for inner in command.list_commands(context))
        else:
            yield (name,)


def help_of(words: tuple[str, ...]) -> str:
    from dsqlcdc.cli.app import invoke

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "110"
    try:
        with redirect_stdout(StringIO()) as said:
            if invoke([*words, "--help"]):
                raise SystemExit(f"no help of {' '.join(words)}")
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return said.getvalue().rstrip()


def config() -> str:
    """Every config key of the schema, each with an anchor: what it takes, its default, what it means."""
    parts = [
        "# Config keys",
        "",
        "Made of `dsqlcdc config schema`. `NAME` stands for a name of your own, `<s3>` for a block of that type. Sizes are written `64MiB`,",
        "times `30s`; `${VAR}` and `${VAR:default}` work in every text; unknown keys are errors. The same on one page as a table:",
        "[reference](docs/reference.md#config-keys).",
        "",
    ]
    block = ""
    for key, takes, default, meaning in entries():
        if (first := re.split(r"[.<]", key)[0]) != block:
            block = first
            parts += [f"## {block}", ""]
        shown = "no default: needed where its block is" if default is ... else f"default `{_written(default)}`"
        parts += [f"### `{key}`", "", f"Takes {takes}; {shown}.", "", meaning[:1].upper() + meaning[1:].rstrip(".") + ".", ""]
    return "\n".join(parts)


def _written(default: object) -> str:
    """A default as it would be written in the file."""
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return '""' if default == "" else str(default)


def entries() -> Iterator[tuple[str, str, object, str]]:
    """Key, what it takes, default (... where there is none), meaning. What every sink takes is said once."""
    said, seen = meanings(), set[str]()
    for key, takes, default, described in schema_keys():
        plain = re.sub(r"<\w+>", "", key)
        place = key if key in said or plain not in said else plain
        if place.endswith(">.type"):
            takes, described = f"the word {takes}", "which type of block this is"
        if place not in seen:
            seen.add(place)
            yield place, takes, default, said.get(place) or described


def meanings() -> dict[str, str]:
    """What the reference's table says of each key: a test holds it to the schema."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").partition("## Config keys")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| .*? \| (.*) \|$", text, re.MULTILINE)
    here = [(key, re.sub(r"\]\(#", "](reference.md#", meaning.replace("\\|", "|"))) for key, meaning in rows]
    return {key: re.sub(r"\]\((?!https?:)", "](docs/", meaning) for key, meaning in here}  # the page stands above the reference


def schema_keys() -> Iterator[tuple[str, str, object, str]]:
    """Key, what it takes, default (... where there is none), description; blocks themselves are not listed."""
    from dsqlcdc.config import schema

    made = schema()
    yield from _walk(made, "", made["$defs"])


def _walk(node: Mapping[str, Any], at: str, defs: Mapping[str, Any]) -> Iterator[tuple[str, str, object, str]]:
    for name, value in node.get("properties", {}).items():
        key = f"{at}.{name}" if at else name
        inner = {**_resolved(value, defs), **{word: said for word, said in value.items() if word in ("default", "description")}}
        below = [*_walk(inner, key, defs)]
        for branch in (*inner.get("oneOf", ()), *inner.get("anyOf", ())):
            resolved = _resolved(branch, defs)
            kind = str(resolved.get("properties", {}).get("type", {}).get("const", "")) if "oneOf" in inner else ""
            below += _walk(resolved, f"{key}<{kind}>" if kind else key, defs)
        for inside, word in (
            (inner.get("additionalProperties"), "NAME"),
            *((each, "PATTERN") for each in inner.get("patternProperties", {}).values()),
        ):
            if not isinstance(inside, Mapping):
                continue
            resolved = _resolved(inside, defs)
            below += _walk(resolved, f"{key}.{word}", defs)
            for branch in resolved.get("oneOf", ()):
                one = _resolved(branch, defs)
                below += _walk(one, f"{key}.{word}<{one['properties']['type']['const']}>", defs)
        if below:
            yield from below
        else:
            yield key, _takes(inner, defs), inner.get("default", ...), str(inner.get("description", ""))


def _resolved(node: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = str(node.get("$ref", ""))
    return {**defs.get(reference.removeprefix("#/$defs/"), {}), **{k: v for k, v in node.items() if k != "$ref"}} if reference else node


def _takes(node: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """What may be written, in words."""
    node = _resolved(node, defs)
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return "one of " + ", ".join(f"`{word}`" for word in node["enum"])
    if "anyOf" in node or "oneOf" in node:
        said = [_takes(each, defs) for each in (*node.get("anyOf", ()), *node.get("oneOf", ())) if each.get("$ref") != "#/$defs/variable"]
        return " or ".join(dict.fromkeys(word for word in said if word != "null")) or "null"
    kind = node.get("type", "anything")
    if kind == "string" and node.get("examples"):
        return f"text such as `{node['examples'][0]}`"
    if kind == "array":
        return f"a list of {_takes(node['items'], defs)}" if isinstance(node.get("items"), Mapping) else "a list"
    return {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false", "object": "a mapping"}.get(
        str(kind), str(kind)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "docs", help="where the site is put (dist/docs)")
    out: Path = parser.parse_args().out
    if failed := build(out):
        sys.exit(failed)
    print(f"The documentation: {out.resolve() / 'index.html'}")


if __name__ == "__main__":
    main()
