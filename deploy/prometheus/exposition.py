"""Every metric of the registry once, as a scrape shows it: `exposition.py | promtool check metrics`."""

from __future__ import annotations

from dsqlcdc.prometheus import describe


def exposition() -> str:
    found: list[str] = []
    for name, kind, labels, meaning in describe():
        named = ",".join(f'{label}="x"' for label in labels)
        found += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        if kind == "histogram":
            found += [f'{name}_bucket{{{named},le="+Inf"}} 1', f"{name}_sum{{{named}}} 1", f"{name}_count{{{named}}} 1"]
        else:
            found.append(f"{name}{{{named}}} 1")
    return "\n".join(found) + "\n"


if __name__ == "__main__":
    print(exposition(), end="")
