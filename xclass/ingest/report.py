"""The ingest report: what was read, kept, dropped and why, as it is saved in ``dataset.json`` and as text."""

from __future__ import annotations

from typing import Any

from xclass.ingest.text.times import as_date, common_unit

WITHOUT = {
    "valid": "training is not validated, so it neither stops early nor keeps the best checkpoint",
    "test": "there is nothing to evaluate on",
}
LISTS = {
    "adjacency": "none: each line is a query, then its items",
    "sequences": "none: each line is a query, named by its number; every word of it, the first too, is an item",
}
"""What the lines of formats without columns are."""


def render_report(report: dict[str, Any]) -> str:
    """The report as text for a person, one fact per line."""
    if "text" in report:
        return _text(report)
    lines = [f"read       {_read(report)}", *_columns(report), *_merged(report["dropped"])]
    lines += [f"dropped    {line}" for line in _dropped(report["dropped"])]
    lines += _appended(report["appended"]) if "appended" in report else []
    lines.append(f"kept       {report['kept']:,} pairs of {report['queries']:,} queries and {report['items']:,} items")
    lines += _documents(report) if "documents" in report else []
    lines += _split(report)
    unit = _unit(report)
    for name, part in report["splits"].items():
        lines.append(
            f"{name:<11}{part['pairs']:,} pairs of {part['queries']:,} queries, {part['items']:,} items"
            f"{_dates(part, unit)}"
        )
    lines += [f"note       {line}" for line in _notes(report)]
    return "\n".join(lines)


def _text(report: dict[str, Any]) -> str:
    found, total = report["text"], sum(report["read"].values())
    borders = {
        "stop": "the end of a sentence is an item, and no history reaches back over it",
        "cross": "the end of a sentence is an item, in histories too",
        "ignore": "line breaks mean nothing",
    }
    lines = [f"read       {sum(found['lines'].values()):,} lines of text from {report['source']}"]
    lines.append(f"words      {found['distinct']:,} different ones in train; {report['items']:,} items are kept")
    lines.append(f"kept       {total:,} positions, each with a next item and up to {found['context']} before it")
    for name, part in report["splits"].items():
        share = found["unknown"][name] / max(part["pairs"], 1)
        true = f", perplexity of the truth {found['perplexity'][name]:,.1f}" if "perplexity" in found else ""
        lines.append(f"{name:<11}{part['pairs']:,} positions, {part['items']:,} items, {share:.2%} unknown words{true}")
    lines.append(f"note       {borders[found['borders']]}")
    if not found["unknown"]["train"] and any(found["unknown"].values()):
        lines.append("note       train has no unknown word, so no run learns to expect one: lower --vocabulary")
    lines += [f"note       {line}" for line in _missing_parts(report)]
    return "\n".join(lines)


def _read(report: dict[str, Any]) -> str:
    total = sum(report["read"].values())
    parts = (
        "" if list(report["read"]) == ["all"] else f" ({', '.join(f'{k} {v:,}' for k, v in report['read'].items())})"
    )
    return f"{total:,} pairs{parts} from {report['source']}, format {', '.join(report['formats'])}"


def _dropped(dropped: dict[str, Any]) -> list[str]:
    lines = []
    if dropped.get("low_weights"):
        lines.append(f"{dropped['low_weights']:,} pairs below the minimum weight")
    counts = dropped["min_counts"]
    if counts["queries"] or counts["items"] or counts["pairs"]:
        lines.append(
            f"{counts['pairs']:,} pairs, {counts['queries']:,} queries and "
            f"{counts['items']:,} items below the minimum counts, "
            f"in {counts['rounds']} round{'' if counts['rounds'] == 1 else 's'}"
        )
    return lines or ["nothing"]


def _merged(dropped: dict[str, Any]) -> list[str]:
    found = dropped["duplicates"]
    return [f"merged     {found:,} repeated pairs (weights summed, first time kept)"] if found else []


def _columns(report: dict[str, Any]) -> list[str]:
    """The columns that were used and that were not, and the files of a directory that were not read."""
    lines = [f"not read   {_some(report['not_read'])}"] if report.get("not_read") else []
    if "columns" not in report:
        return [f"columns    {LISTS[name]}" for name in report.get("formats", []) if name in LISTS] + lines
    used = ", ".join(f"{role} {name}" for role, name in report["columns"].items())
    unused = f"; not used: {', '.join(report['unused'])}" if report["unused"] else ""
    return [f"columns    {used}{unused}", *lines]


def _split(report: dict[str, Any]) -> list[str]:
    if not report.get("split_reason"):
        return []
    other = "" if report["split"] == "given" else " (--split chooses another)"
    return [f"split      {report['split']}, as {report['split_reason']}{other}"]


def _unit(report: dict[str, Any]) -> str | None:
    """The unit of the times, the same for all dates that are shown."""
    return common_unit(part["last_time"] for part in report["splits"].values() if "last_time" in part)


def _documents(report: dict[str, Any]) -> list[str]:
    counts = report["documents"]
    total = sum(counts.values())
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    mean = report["feature_values"] / max(total, 1)
    return [f"documents  {total:,} ({parts}), {mean:.1f} features each"]


def _appended(grown: dict[str, Any]) -> list[str]:
    total, parts = (
        sum(grown["pairs"].values()),
        ", ".join(f"{count:,} {name}" for name, count in grown["pairs"].items()),
    )
    lines = [f"appended   {total:,} pairs: {parts}; {grown['queries']:,} new queries, {grown['items']:,} new items"]
    if grown["merged"]:
        lines.append(f"merged     {grown['merged']:,} pairs that the dataset had (weights summed, first time kept)")
    if grown["moved"]:
        moves = ", ".join(f"{count:,} from {name}" for name, count in grown["moved"].items())
        lines.append(f"moved      {moves}: the split was cut anew")
    return lines


def _dates(part: dict[str, Any], unit: str | None) -> str:
    if "first_time" not in part:
        return ""
    return f", {as_date(part['first_time'], unit)} to {as_date(part['last_time'], unit)}"


def _notes(report: dict[str, Any]) -> list[str]:
    notes = _remarks(report)
    for name, cold in report["cold_items"].items():
        if cold["items"]:
            notes.append(
                f"{cold['items']:,} items of {name} are not in train "
                f"({cold['pairs']:,} pairs): {_some(cold['samples'])}"
            )
    for name, new in report["queries_without_history"].items():
        if new["queries"] and "documents" not in report:
            notes.append(f"{new['queries']:,} queries of {name} have nothing in train: {_some(new['samples'])}")
    if report["queries_without_pairs"]:
        notes.append(f"{report['queries_without_pairs']:,} queries have no item at all and are kept")
    unit = _unit(report)
    notes += [
        f"cut-off of {name}: pairs at or after {as_date(cut, unit)}" for name, cut in report.get("cut_offs", {}).items()
    ]
    return notes


def _remarks(report: dict[str, Any]) -> list[str]:
    """What a person may have meant otherwise."""
    notes = [
        f'"{name}" looks like a time and is not used: --time-col "{name}"' for name in report.get("look_like_times", [])
    ]
    for name, kinds in report.get("look_like_events", {}).items():
        notes.append(f'"{name}" is not used: {", ".join(kinds)} count alike, as one positive each')
    if "missing_times" in report:
        notes.append(f"{report['missing_times']:,} times are 0 or before 1970: are they missing?")
    return [*notes, *report.get("remarks", []), *_missing_parts(report)]


def _missing_parts(report: dict[str, Any]) -> list[str]:
    return [f"no query has a {name} part: {lack}" for name, lack in WITHOUT.items() if name not in report["splits"]]


def _some(samples: list[Any], most: int = 5) -> str:
    return ", ".join(map(str, samples[:most])) + (", …" if len(samples) >= most else "")
