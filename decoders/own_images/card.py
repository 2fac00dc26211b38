"""The card of adapters that were taught names of one's own: what they learned from, and how well they find."""

from typing import Any


def card_text(report: dict[str, Any], model: str, kind: str, settings: dict[str, Any]) -> str:
    """Return the card as Markdown, from a report's and the settings' values."""
    before, after = report["before"], report["after"]
    lines = [
        "# Adapters for names of one's own",
        "",
        f"Trained on from the `[DET]` and `[SEG]` of {model!r} with {report['images'][0]} images ({kind}); the model "
        f"itself is unchanged. Figures are of {report['images'][1]} images that were not learned from.",
        "",
        "| name | objects learned from | objects measured | AP50 before | AP50 after |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (learned, measured) in report["names"].items():
        figures = [_figure(each["by_name"].get(name)) for each in (before, after)]
        lines.append(f"| {name} | {learned} | {measured} | {figures[0]} | {figures[1]} |")
    lines += [
        f"| all new names | | | {_figure(before['ap50'])} | {_figure(after['ap50'])} |",
        "",
        f"At the usual least score: {after['found']} boxes are on an object of their name, {after['wrong']} on none, "
        f"{after['missed']} objects are left.",
        "",
    ]
    if report["keep_before"] is not None:
        old = [_figure(report[each]["ap50"]) for each in ("keep_before", "keep_after")]
        lines += [f"Old names, on the images that were given for it: AP50 {old[0]} before, {old[1]} after.", ""]
    if report["agreement"] is not None:
        told = "Old names, against what was surely found on the same images before"
        lines += [f"{told}: AP50 {_figure(report['agreement'])} (1 is no change).", ""]
    if report["masks_after"] is not None:
        old = [_figure(report[each]) for each in ("masks_before", "masks_after")]
        lines += [f"Masks of marked boxes: mean IoU {old[0]} before, {old[1]} after.", ""]
    if report["left_out"]:
        lines += [f"{len(report['left_out'])} faulty parts of the set were left out; `report.json` lists them.", ""]
    learned = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    lines += [f"Settings: {learned}. Best step: {report['best_step']}.", ""]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
