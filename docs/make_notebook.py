"""Makes the notebook docs/lesson.ipynb of docs/lesson.md: text stays text, commands can be run.

    python docs/make_notebook.py
"""

import json
import pathlib
import re

LESSON = pathlib.Path(__file__).with_name("lesson.md")
# Where the reader's own picture lies that takes the place of one of results/demo.
PICTURES = {"overview.png": "data/toy/overview.png", "montage.png": "logs/pseudo/montage.png",
            "rand_augment.png": "figures/rand_augment.png", "batch.png": "logs/student/batch.png"}
SETUP = '''\
# Where this project can be cloned from. In a checkout of it, leave this empty.
REPOSITORY = ""

import importlib.util, os, sys

if REPOSITORY:
    !git clone --depth 1 $REPOSITORY project
    %cd project
elif os.path.basename(os.getcwd()) == "docs":
    %cd ..
# python is the one that runs this notebook.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
# A runtime that has TensorFlow, for its GPU say, keeps it.
EXTRA = "" if importlib.util.find_spec("tensorflow") else "[cpu]"
!python -m pip install --quiet -e ".$EXTRA"'''
# A block, of commands where it names no language, or a picture. An exercise, in sh, is typed by the
# reader.
BLOCK = re.compile(r'^```(?P<language>\w*)\n(?P<block>.*?)^```$'
                   r'|^<img src="[^"]*/(?P<picture>[^"/]+)"[^>]*>$', re.DOTALL | re.MULTILINE)


def cell(kind, source, number):
    made = {"cell_type": kind, "id": f"cell{number}", "metadata": {},
            "source": source.strip("\n").splitlines(keepends=True)}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def sources(text):
    """Yields: (kind of cell, its source), in order."""
    place = 0
    for match in BLOCK.finditer(text):
        language, command, picture = match.groups()
        if language:
            continue
        yield "markdown", text[place:match.start()]
        place = match.end()
        if picture:
            yield "code", ("from IPython.display import Image\n\n"
                           f'Image("{PICTURES[picture]}", width=450)')
        else:
            yield "code", f"!{command}"
    yield "markdown", text[place:]


def notebook(text):
    """The notebook of a lesson, as the text of an .ipynb file."""
    title, _, rest = text.partition("\n\n")
    everything = [("markdown", title), ("code", SETUP), *sources(rest)]
    cells = [cell(kind, source, number)
             for number, (kind, source) in enumerate(everything) if source.strip()]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4,
               "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    text = LESSON.read_text(encoding="utf-8")
    LESSON.with_suffix(".ipynb").write_text(notebook(text), encoding="utf-8")
