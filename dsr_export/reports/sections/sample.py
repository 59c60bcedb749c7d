"""The end of the sampling run as pictures: reference, candidate, difference."""

from __future__ import annotations

from dsr_export.html.markup import Markup, element, text
from dsr_export.html.page import Section, figure, row
from dsr_export.reports.figures import DASH, number
from dsr_export.reports.reading import Entry, number_in, numbers, text_in, words
from dsr_export.reports.record import Report


def sample_section(report: Report) -> Section | None:
    """None for a model that makes no samples."""
    samples = [Entry(f"samples[{index}]", each) for index, each in enumerate(report.samples)]
    if not samples:
        return None
    latent = any(words(each, "kind") == "latent" for each in samples)
    said = (
        "The last states of the golden sampling run, by the FP32 reference and by the candidate from the same noise."
        + (" These are latents: their first three channels are shown as red, green and blue." if latent else "")
    )
    return Section("Samples", said, row(*(_strips(each) for each in samples)))


def _strips(sample: Entry) -> Markup:
    labels = ", ".join(number(label, "d") for label in numbers(sample, "labels"))
    strips = [_strip(sample, role, labels) for role in ("reference", "candidate", "difference")]
    caption = f"Classes {labels}, from left to right. {_apart(sample)}"
    return figure(
        element("div", *strips, class_="strips"), title=f"On {words(sample, 'runtime') or DASH}", caption=caption
    )


def _apart(sample: Entry) -> str:
    if count := number_in(sample, "not_finite"):
        return f"Red: {number(count, 'd')} values of the candidate are NaN or infinite."
    picture = ", where the picture's range is 2." if words(sample, "kind") == "picture" else "."
    return f"The brightest difference is {number(number_in(sample, 'difference_max'), '.2g')}{picture}"


def _strip(sample: Entry, role: str, labels: str) -> Markup:
    alt = (
        f"{role} samples of the classes {labels}" if role != "difference" else f"difference of the samples of {labels}"
    )
    return element("div", element("p", text(role.capitalize())), element("img", src=text_in(sample, role), alt=alt))
