"""One page that holds the answers, the pictures and the tables, for phones and desks.

It needs no network and no script: everything is inside.
"""

import base64
import datetime
import html
import itertools
import os
import pathlib
import stat

from noisy_student.figures import verdict
from noisy_student.files import whole_file

PNG = b"\x89PNG\r\n\x1a\n"
ANSWERS_SAY = (
    "Differences of accuracy, in points, with 95 % intervals over other seeds and other test "
    "images (Student's t, widened by the images that all seeds share). 'Shown' is a difference "
    "whose interval is off zero. 'Not shown' is not 'no effect': the interval tells how large one "
    "may still be. One seed shows nothing about a method: its interval is over test images alone. "
    "Each interval misses the truth one time in twenty, so of ten questions whose true answer is "
    "'nothing', one is called shown in every second such table; 'with Holm too' marks the answers "
    "that stand together, with one chance in twenty that any of them is wrong in this way. "
    "McNemar's exact p is about these networks alone, the largest of the seeds. The last three, "
    "where they are there, are the 2x2's: what noise and pseudo-labels do, averaged over the other "
    "of the two, and what pseudo-labels add under noise less what they add without.")
# By the name of a picture's file: what it shows, for those who cannot see it; how to read it.
PICTURES = {
    "accuracy": (
        "Every cell's mean accuracy, and every seed's with its interval",
        "Accuracy: the share of the test images that is named rightly; the axis does not begin at "
        "0. An interval says how far other test images might move one seed's (Wilson, 95 %)."),
    "answers": (
        "Differences in accuracy, with their intervals",
        "A point is a hundredth of accuracy. Right of 0: what is asked about helps."),
    "learning_curves": (
        "Validation accuracy and training loss over the steps",
        "Above, on images held out; below, on what is trained on, which noise makes harder: only "
        "losses under the same noise compare."),
    "robustness": (
        "Accuracy by severity of corruption and by strength of attack",
        "Means over the seeds that were tested; higher is better. The axes do not begin at 0."),
    "pseudo_labels": (
        "Images kept of each class, and how right labels are by confidence",
        "Above, dark: images kept; light: with the repeats that balance the classes. Below, on the "
        "diagonal, the teacher's confidence means what it says."),
    "confusion": (
        "Which class is taken for which, by the first cell and by the most accurate",
        "A row: of the images of one class, how many in a hundred are taken for each."),
    "montage": ("Kept images of each class, by confidence", "What the teacher kept."),
    "mistakes": ("The most confident wrong labels", "What the teacher was surest of, and wrong."),
}
# What is said below a table that has a column of this name.
COLUMNS = {"article": "The article's numbers are its full ResNet50's on all of CIFAR-10, and its "
                      "losses include an L2 term: other networks and data do not compare."}
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem;
  margin: auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
dt { font-weight: 600; margin-top: .8rem; } dd { margin: 0; } small { color: #555; }
.answers dd { border-left: .3rem solid; padding-left: .6rem; }
.yes { color: #00664b; } .no { color: #a34700; } .open { color: #555; }
.pictures { display: grid; gap: 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; max-width: 40rem; } img { width: 100%; display: block; }
figcaption, .note { font-size: .9rem; color: #444; }
.close { display: none; }
figure:target { position: fixed; inset: 0; max-width: none; overflow: auto; background: #fff;
  padding: 1rem; }
figure:target img { width: auto; }
figure:target .close { display: inline-block; position: sticky; left: 0; padding: .5rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: break-word; }
@media (max-width: 60rem) {
  thead { display: none; } table, tbody, tr, td { display: block; }
  tr { border-bottom: 2px solid #888; padding: .5rem 0; }
  td { border: 0; padding: 0; overflow-wrap: anywhere; }
  td::before { content: attr(data-label) ": "; color: #555; }
  td:first-child { font-weight: 600; } td:first-child::before { content: none; }
}
"""


def read_picture(path):
    """The bytes of a PNG file; None where there is none, or a link, or a file of another kind.

    A link named montage.png may lead to what nobody wants to hand around in a page.
    """
    try:
        if stat.S_ISREG(os.lstat(path).st_mode):
            content = pathlib.Path(path).read_bytes()
            return content if content.startswith(PNG) else None
    except OSError:
        pass
    return None


def as_figures(heading, paths, kind):
    """Pictures under a heading, each a link that shows it at its full size. Returns: HTML."""
    parts = []
    for number, path in enumerate(map(pathlib.Path, paths)):
        content = read_picture(path)
        if content is None:
            continue
        alt, caption = PICTURES.get(path.stem, (path.stem.replace("_", " "), ""))
        if kind == "photo":
            # Of several labellings' pictures, the folders tell which is which.
            caption = f"{'/'.join(path.parts[-3:-1])}: {caption}"
        data, name = base64.b64encode(content).decode("ascii"), f"{kind}{number}"
        parts.append(f'<div id="at-{name}"><figure id="{name}"><a class="close" href="#at-{name}">'
                     f'close</a><a href="#{name}"><img src="data:image/png;base64,{data}" '
                     f'alt="{html.escape(alt)}"></a><figcaption>{html.escape(caption)}</figcaption>'
                     "</figure></div>")
    return [f"<h2>{heading}</h2>", '<div class="pictures">', *parts, "</div>"] if parts else []


def as_table(head, rows):
    """A table whose rows become blocks of "label: value" on a narrow screen. Returns: HTML."""
    parts = ['<div class="wide"><table><thead><tr>']
    parts += [f"<th>{html.escape(name)}</th>" for name in head]
    parts.append("</tr></thead><tbody>")
    for row in rows:
        parts.append("<tr>")
        for name, value in itertools.zip_longest(head, row, fillvalue=""):
            label, value = html.escape(name), html.escape(str(value))
            parts.append(f'<td data-label="{label}">{value}</td>')
        parts.append("</tr>")
    return "".join(parts) + "</tbody></table></div>"


def write_page(path, data_name, answers, sections, pictures, photos, conditions):
    """Writes the page: the answers first, then pictures, tables, photos, and the conditions.

    Args:
        answers: each with .question, .points, .per_seed, .shown, and its words as str().
        sections: {title: (explanation, head, rows)}. All text is plain, and escaped here.
        pictures, photos: paths of PNG files. What is anything else is left out.
        conditions: (label, text) pairs.
    """
    title = html.escape(f"Noisy Student on {data_name}: what it was worth")
    body = [f"<h1>{title}</h1>"]
    if answers:
        body.append('<h2>The answers</h2><dl class="answers">')
        for answer in answers:
            seeds = ", ".join(f"{points:+.1f}" for points in answer.per_seed)
            body.append(f"<dt>{html.escape(answer.question)}</dt>"
                        f'<dd class="{verdict(answer)[0] if answer.shown else "open"}">'
                        f"{html.escape(str(answer))} <small>(each seed: {seeds})</small></dd>")
        body.append(f'</dl><p class="note">{html.escape(ANSWERS_SAY)}</p>')
    body += as_figures("Pictures", pictures, "picture")
    for heading, (explanation, head, rows) in sections.items():
        body.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(explanation)}</p>")
        body.append(as_table(head, rows))
        body += [f'<p class="note">{COLUMNS[name]}</p>' for name in head if name in COLUMNS]
    body += as_figures("Pseudo-labelled images", photos, "photo")
    body.append("<h2>Conditions</h2><dl>")
    for label, text in conditions:
        body.append(f"<dt>{html.escape(label)}</dt><dd>{html.escape(str(text))}</dd>")
    page = ["<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>", f"<style>{STYLE}</style>", *body, "</dl>", "</html>", ""]
    with whole_file(path) as beside:
        beside.write_text("\n".join(page), encoding="utf-8", errors="replace")
    return pathlib.Path(path)


def conditions(everything):
    """Under what conditions runs were made, for the end of the page: (label, text) pairs."""
    versions, commands = {}, []
    for run in everything:
        versions |= {f"{key} {value}": None for key, value in run.versions.items()}
        commands.append(f"{run.folder}: python {run.script} " + " ".join(
            f"--{key.replace('_', '-')} {value}" for key, value in run.arguments.items()
            if value not in (None, False)))
    return [("Page made", datetime.date.today().isoformat()),
            ("Data", everything[0].made_from["data"]),
            ("Versions", ", ".join(versions)),
            *(("Run", command) for command in commands)]
