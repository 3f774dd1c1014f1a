"""The sentences at the top: what was found, and what should make a reader careful."""

from __future__ import annotations

from typing import Any

from cxr_embed.present.numbers import PAGE, PLAIN
from cxr_embed.reporting.cards import seen_in_training, without_places

_SHOWN = 0.8  # AUROC from which a shortcut is named at the top


def summary(report: dict[str, Any]) -> list[str]:
    """What a reader should take away, a sentence each."""
    sentences = []
    for scores in report["scores"]:
        made = scores["evaluation"]
        defined = [f for f in made["findings"] if f["auroc"] is not None]
        covered = f"{made['findings_in_mean']} of {len(made['findings'])} findings"
        text = f"{scores['name']}: mean AUROC {_mean(made)}, over {covered}"
        if len(defined) > 1:
            best, worst = (choose(defined, key=lambda f: f["auroc"]) for choose in (max, min))
            low, high = (f"{PLAIN.number(f['auroc'])} ({f['finding']})" for f in (worst, best))
            text += f"; from {low} to {high}"
        sentences.append(f"{text}.")
    covers = [{f["finding"] for f in s["evaluation"]["findings"] if f["auroc"] is not None} for s in report["scores"]]
    if any(cover != covers[0] for cover in covers):
        sentences.append("These means are over different findings and do not compare; the differences below do.")
    sentences += [_compared(comparison) for comparison in report["comparisons"]]
    clear: dict[str, list[str]] = {}
    for record in report["shortcuts"]:
        for kind in record["kinds"]:
            if (kind.get("auroc") or 0) >= _SHOWN:
                text = f"{kind['told']} from {kind['from']} ({record['attribute']}, AUROC {kind['auroc']:.2f})"
                clear.setdefault(record["encoder"], []).append(text)
    if clear:
        each = "; ".join(f"the vectors of {name} tell {', '.join(kinds)}" for name, kinds in clear.items())
        sentences.append(f"Shortcuts that a classifier could take: {each}.")
    elif report["shortcuts"]:
        sentences.append(f"Neither view, sex nor site can be read from the vectors at an AUROC of {_SHOWN} or more.")
    return sentences


def _compared(comparison: dict[str, Any]) -> str:
    mean, names = comparison["mean_auroc"], f"{comparison['first']} and {comparison['second']}"
    apart = mean["difference"]
    if apart["value"] is None:
        return f"{names} cannot be compared: {apart['reason']}."
    if apart["low"] is None:
        return f"{names}: the mean AUROC differs by {PAGE.signed(apart['value'])}; {apart['reason']}."
    higher = comparison["first"] if apart["value"] > 0 else comparison["second"]
    if apart["low"] <= 0 <= apart["high"]:
        return (
            f"{names}: no clear difference of the mean AUROC: {PAGE.signed(apart['value'])} "
            f"({PAGE.interval(apart['low'], apart['high'], signed=True)})."
        )
    low, high = sorted((abs(apart["low"]), abs(apart["high"])))
    corrected = [f["auroc"]["p_holm"] for f in comparison["findings"]]
    clear = sum(p is not None and p < 0.05 for p in corrected)
    return (
        f"{names}: the mean AUROC of {higher} is higher by {abs(apart['value']):.3f} ({low:.3f} to {high:.3f}); the "
        f"difference holds for {clear} of {len(comparison['findings'])} findings by themselves (p < 0.05, corrected)."
    )


def warnings(report: dict[str, Any], leaks: list[str]) -> list[str]:
    """What limits the figures, the worst first.

    Args:
        report: all but its warnings.
        leaks: training cases among the tested ones, in words.
    """
    cards = [*report["encoders"], *(probe["encoder"] for probe in report["probes"])]
    sentences = [*leaks, *dict.fromkeys(card["stand_in"] for card in cards if card["stand_in"]), *_contaminated(report)]
    for scores in report["scores"]:
        head = f"{scores['name']}: " if len(report["scores"]) > 1 else ""
        sentences += [head + without_places(text) for text in scores["evaluation"]["warnings"]]
    sentences = _merged(sentences, [scores["name"] for scores in report["scores"]])
    if report["few_labels"] is not None:
        sentences += [f"few labels: {without_places(note)}" for note in report["few_labels"]["notes"]]
    if report["settings"]["split"] is None and len(report["data"]["splits"]) > 1:
        sentences.insert(
            0, "all splits are evaluated together: cases that were learned from may be among them (`split`)"
        )
    return sentences


def _contaminated(report: dict[str, Any]) -> list[str]:
    """Encoders that have seen the tested data set, or may have."""
    sentences, data = [], report["data"]["origins"]
    cards = [*report["encoders"], *(probe["encoder"] for probe in report["probes"])]
    for card in {card["fingerprint"]: card for card in cards}.values():
        trained_on = card["trained_on"]
        if trained_on.startswith("nothing"):
            continue
        name = card["name"]
        if not trained_on:
            sentences.append(f"what {name} was trained on is not known: it may have seen the tested images")
            continue
        seen = seen_in_training(trained_on, data)
        if seen:
            sentences.append(
                f"{name} was trained on {trained_on}, and these images come from {' and '.join(seen)}: it may have "
                "seen the tested images, and figures are then too good"
            )
        elif not data:
            sentences.append(
                f"{name} was trained on {trained_on}; the labels do not say where the images come from (no column "
                "source): whether it has seen them is not known"
            )
    return sentences


def _merged(sentences: list[str], names: list[str]) -> list[str]:
    """What is true of every score file is said once."""
    found: list[str] = []
    for text in sentences:
        head, _, rest = text.partition(": ")
        if head in names and all(f"{name}: {rest}" in sentences for name in names):
            text = rest
        if text not in found:
            found.append(text)
    return found


def _mean(made: dict[str, Any]) -> str:
    """The mean AUROC with its interval: 0.705 (0.672 to 0.738)."""
    return PLAIN.figure(*(made[f"mean_auroc{end}"] for end in ("", "_low", "_high")), between=" to ")
