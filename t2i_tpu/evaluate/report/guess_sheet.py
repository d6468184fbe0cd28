"""A page on which a person guesses which image of each pair is real, and the score of the guesses.

If people are not right more often than by chance, the drawn images look real. The page shows one pair
after another and saves a file of answers. It does not contain the key, which says where the real images
are.
"""

import dataclasses
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from t2i_tpu import html_page
from t2i_tpu.errors import UserError, shorten
from t2i_tpu.evaluate.evaluation import Pair
from t2i_tpu.storage import json_files

_SIDES = ("left", "right")
_STYLE = """.pair { display: flex; gap: 1rem; } .pair[hidden] { display: none; }
.pair button { padding: .5rem; border: 2px solid #bbb; background: #fff; border-radius: .3rem; cursor: pointer; }
.pair button:hover, .pair button:focus-visible { border-color: #0072B2; }
.pair button[aria-pressed=true] { border-color: #D55E00; }
.pair img { width: min(38vw, 16rem); image-rendering: pixelated; }
#prompt { font-size: 1.25rem; min-height: 1.5em; margin: .5rem 0; }
#answers { width: 100%; max-width: 46rem; height: 5rem; }
.actions button { font-size: 1rem; padding: .4rem .8rem; margin: 0 .5rem .5rem 0; }
"""
_SCRIPT = """
const pairs = [...document.querySelectorAll(".pair")];
const guesses = pairs.map(() => null);
const find = id => document.getElementById(id);
let current = 0;
function show(index) {
  current = Math.min(Math.max(index, 0), pairs.length);
  const isDone = current === pairs.length;
  pairs.forEach((pair, i) => {
    pair.hidden = i !== current;
    for (const button of pair.children)
      button.setAttribute("aria-pressed", guesses[i] === button.dataset.side);
  });
  find("prompt").textContent = isDone ? "That was the last pair. Save your answers now."
    : pairs[current].dataset.caption;
  find("progress").textContent = `${Math.min(current + 1, pairs.length)} of ${pairs.length}`;
  find("back").disabled = current === 0;
  find("answers").value = JSON.stringify({sheet: SHEET, answers: guesses});
}
function guess(side) {
  if (current === pairs.length) return;
  guesses[current] = side;
  show(current + 1);
}
pairs.forEach(pair => { for (const button of pair.children)
  button.addEventListener("click", () => guess(button.dataset.side)); });
document.addEventListener("keydown", event => {
  if (event.target.tagName === "TEXTAREA" || event.ctrlKey || event.altKey || event.metaKey) return;
  const actions = {ArrowLeft: () => guess("left"), ArrowRight: () => guess("right"),
                   Backspace: () => show(current - 1)};
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
});
find("back").addEventListener("click", () => show(current - 1));
find("save").addEventListener("click", () => {
  const link = document.createElement("a");
  const text = find("answers").value + "\\n";
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "answers.json";
  link.click();
});
show(0);
"""


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a person who guessed which images are real.

    Attributes:
      num_right: number of pairs whose real image was chosen.
      num_answered: number of pairs with an answer.
      p_value: the probability of at least as many right answers by chance.
    """

    num_right: int
    num_answered: int
    p_value: float

    def describe(self) -> list[str]:
        """Return the score in three sentences."""
        if self.p_value < 0.05:
            meaning = "so the drawn images can be distinguished from real ones"
        else:
            meaning = (
                "so there is no sign that the drawn images can be distinguished from real ones"
            )
        return [
            f"{self.num_right} of {self.num_answered} answers are right.",
            f"That is {self.num_right / self.num_answered:.0%}; guessing gives 50% on average.",
            f"The probability of at least as many by guessing is {self.p_value:.3g}, {meaning}.",
        ]


def make_guess_sheet(pairs: Sequence[Pair], seed: int) -> tuple[str, dict[str, Any]]:
    """Return the page as an HTML document that needs no other files, and the key.

    Args:
      pairs: the pairs in the order in which they are shown, at least one.
      seed: seed of the random sides.

    Returns:
      The page, and a dict that is JSON: "sheet", which identifies the page, and "real", the side of each
      pair's real image, "left" or "right".
    """
    real = [_SIDES[side] for side in np.random.default_rng(seed).integers(2, size=len(pairs))]
    content = "\n".join(_to_html(*pair) for pair in zip(pairs, real, strict=True))
    sheet = hashlib.sha256(content.encode()).hexdigest()[:16]
    parts = [
        html_page.make_paragraph(
            "One image of each pair is real, and a model has drawn the other. Choose the real one with "
            "a click or with the keys ← and →. To change an answer, go back with the Back button or the "
            "Backspace key. You may stop at any time and save your answers so far."
        ),
        '<p id="progress" class="note"></p><p id="prompt" aria-live="polite"></p>',
        content,
        '<p class="actions"><button id="back">Back</button>'
        '<button id="save">Save answers.json</button></p>',
        html_page.make_paragraph(
            "If your browser cannot save the file, copy this text into a file named answers.json. "
            "launch/evaluate.py --score_sheet=answers.json computes the score.",
            "note",
        ),
        '<textarea id="answers" readonly aria-label="answers"></textarea>',
    ]
    script = f"const SHEET = {json.dumps(sheet)};{_SCRIPT}"
    page = html_page.make_page("Which image is real?", parts, _STYLE, script)
    return page, {"sheet": sheet, "real": real}


def _to_html(pair: Pair, real_side: str) -> str:
    """Return a pair as two buttons. Both images are stored in the same way."""
    images = [pair.real, pair.drawn] if real_side == "left" else [pair.drawn, pair.real]
    buttons = []
    for side, image in zip(_SIDES, images, strict=True):
        picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).convert("RGB")
        label = f"the {side} image is real"
        buttons.append(
            f'<button data-side="{side}" aria-label="{label}">{html_page.make_image(picture)}</button>'
        )
    caption = html.escape(pair.caption)
    return f'<div class="pair" data-caption="{caption}" hidden>{"".join(buttons)}</div>'


def score_sheet(answers: str | bytes, key: Mapping[str, Any]) -> Score:
    """Return the score of a file of answers.

    Args:
      answers: the content of the file that the page saved.
      key: the key from `make_guess_sheet`.

    Raises:
      UserError: the content is not a file of answers, belongs to another page, or has no answer.
    """
    from scipy import stats

    try:
        sheet, given = json_files.parse(
            answers, lambda data: (data["sheet"], list(data["answers"]))
        )
    except json_files.DamagedJson as error:
        raise UserError(
            f"the answers are not those that guess.html saves ({shorten(str(error))}); save them again"
        ) from error
    wrong = [answer for answer in given if answer not in (*_SIDES, None)]
    if wrong:
        raise UserError(
            f"the answers contain {shorten(repr(wrong[0]))}; each must be left, right or null"
        )
    if sheet != key["sheet"] or len(given) != len(key["real"]):
        raise UserError(
            "the answers belong to another guess.html than that of this report; set --output to the "
            "folder of that page"
        )
    pairs = zip(given, key["real"], strict=True)
    answered = [(answer, real) for answer, real in pairs if answer is not None]
    if not answered:
        raise UserError("the answers are all empty; choose an image of at least one pair")
    num_right = sum(answer == real for answer, real in answered)
    test = stats.binomtest(num_right, len(answered), 0.5, alternative="greater")
    return Score(num_right, len(answered), float(test.pvalue))
