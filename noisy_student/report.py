"""One page that holds the answers, the pictures and the tables, for phones and desks.

It needs no network and no script: everything is inside.
"""

import base64
import datetime
import html
import pathlib
import shlex

from markdown_it import MarkdownIt

from noisy_student import arguments
from noisy_student.commands import flags_of
from noisy_student.files import whole_file

PNG = b"\x89PNG\r\n\x1a\n"
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
        "Validation accuracy, training accuracy and training loss over the steps",
        "Above, on images held out, the fewer the less sure; below, on what is trained on, which "
        "noise makes harder: there, only cells under the same noise compare."),
    "robustness": (
        "Accuracy by severity of corruption and by strength of attack",
        "Means over the seeds that were tested; higher is better. The axes do not begin at 0."),
    "pseudo_labels": (
        "Images kept of each class, and how right labels are by confidence",
        "Above, dark: images kept; light: with the repeats that balance the classes. Below, on the "
        "diagonal, the teacher's confidence means what it says."),
    "confusion": (
        "Which class is taken for which, by the first cell, the student and the most accurate",
        "A row: of the images of one class, how many in a hundred are taken for each."),
    "student_mistakes": ("Test images that a student is surest of, and wrong",
                         "What a student is surest of, and wrong, of the test images."),
    "batch": ("Training images as they are, and as the student is shown them",
              "What the student is shown: its first batch."),
    "montage": ("Kept images of each class, by confidence", "What the teacher kept."),
    "mistakes": ("The most confident wrong labels", "What the teacher was surest of, and wrong."),
}
# Pixels that a picture may be wide and still be read on a phone, and those that it shows in a rem.
WIDE, PER_REM = 1200, 45
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem;
  margin: auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p, figcaption { max-width: 45rem; color: #444; } pre { overflow-x: auto; font-size: .8rem; }
.pictures { display: grid; gap: 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; max-width: 40rem; } img { width: 100%; display: block; }
.wide { grid-column: 1 / -1; max-width: none; overflow-x: auto; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; min-width: 3rem;
  border-bottom: 1px solid #ddd; overflow-wrap: normal; } td { white-space: nowrap; }
td:first-child, td:last-child, table:first-of-type td:nth-child(2) { white-space: normal; }
td:first-child, table:first-of-type td:nth-child(2) { min-width: 10rem; }
td:last-child { min-width: 7rem; }
"""


def read_picture(path):
    """The bytes of a PNG file; None where there is none, or a link, or a file of another kind.

    A run that somebody hands around may hold a link of a picture's name to a picture of one's own,
    and a pipe would be waited for.
    """
    if path.is_symlink() or not path.is_file():
        return None
    content = path.read_bytes()
    return content if content.startswith(PNG) else None


def as_figures(heading, paths, with_folder=False):
    """Pictures under a heading. Returns: HTML, empty where there are none.

    Args:
        with_folder: whether several are of one name, and the folders tell which is which.
    """
    parts = []
    for path in map(pathlib.Path, paths):
        if (content := read_picture(path)) is None:
            continue
        alt, caption = PICTURES.get(path.stem, (path.stem.replace("_", " "), ""))
        if with_folder:
            caption = f"{'/'.join(path.parts[-3:-1])}: {caption}"
        # The file says how wide it is. Confusion matrices stand side by side, to be swiped through.
        width, wide, least = int.from_bytes(content[16:20]), "", ""
        if width > WIDE:
            wide, least = ' class="wide"', f' style="min-width: {width // PER_REM}rem"'
        parts.append(f'<figure{wide}><img{least} src="data:image/png;base64,'
                     f'{base64.b64encode(content).decode()}" alt="{html.escape(alt)}">'
                     f"<figcaption>{html.escape(caption)}</figcaption></figure>")
    if not parts:
        return ""
    return f'<h2>{heading}</h2>\n<div class="pictures">{"".join(parts)}</div>'


def write_page(path, data_name, answers, tables, pictures, photos, commands):
    """Writes the page: the answers first, then pictures, tables, photos, and how it was made.

    Args:
        answers, tables: parts of results.md; HTML in them is text.
        pictures, photos: paths of PNG files. What is anything else is left out.
        commands: command lines.
    """
    title = html.escape(f"Noisy Student on {data_name}: what it was worth")
    render = MarkdownIt("commonmark", {"html": False}).enable("table").render
    page = ["<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>", f"<style>{STYLE}</style>", f"<h1>{title}</h1>",
            render(answers), as_figures("Pictures", pictures), render(tables),
            as_figures("Images that were learnt from", photos, with_folder=True),
            f"<h2>How it was made</h2><p>This page: {datetime.date.today().isoformat()}.</p>",
            f"<pre>{html.escape(chr(10).join(commands))}</pre>", "</html>", ""]
    with whole_file(path) as beside:
        beside.write_text("\n".join(page), encoding="utf-8", errors="replace")
    return pathlib.Path(path)


def commands(trainings, labellings):
    """A command for each run, with which it can be made again, after those that it needs.

    Args:
        trainings, labellings: lists of Runs. A folder that a run needs and that is none of theirs
            stands there as FOLDER.

    Returns: list of str.
    """
    networks = {run.sha256.get("model.keras"): run for run in trainings}
    labels = {run.labels_sha256: run for run in labellings}
    lines = {}

    def add(run):
        made_from, need = run.made_from, None
        if not run.trained:
            need = networks.get(made_from["teacher_sha256"])
            where = ["--teacher", need.folder if need else "FOLDER", "--out"]
            if not run.taught_by and "data" in made_from:
                where = ["--data", made_from["data"], *where]
        else:
            where = ["--data", made_from["data"], "--log-dir"]
            if run.taught_by:
                need = labels.get(made_from.get("pseudo_sha256"))
                where = ["--pseudo", need.folder if need else "FOLDER", *where]
            elif "noise" in run.arguments:
                where = ["--pseudo", "none", "--like", "none", *where]
        if need:
            add(need)
        lines[run.folder] = shlex.join(["python", run.script, *as_words(run), *where, run.folder])

    for run in [*trainings, *labellings]:
        add(run)
    return list(lines.values())


def as_words(run):
    """What was chosen for a run, as on its command line.

    A recipe has values that are no flags: they come with its name.
    """
    flags = arguments.flags_of(run.script)
    if run.arguments.get("keep_share"):
        # It takes the place of the threshold.
        flags -= {"threshold"}
    chosen = {key: value for key, value in run.arguments.items() if key in flags}
    return [*chosen.pop("images", ()), *flags_of(chosen)]
