"""What a session says to the person: one line after each choice, and one after the last sheets."""

from __future__ import annotations

from . import shapes, taste
from .session import COMPARE, FOUND, MORE, OFF, SHEETS, Session


def line(session: Session) -> str:
    """ "D +.6, +.4, 0; 14 choices; likely better than off: 93 %"."""
    answers, now = session.answers(), session.belief()
    if not answers:
        return "no choice yet: click the column that you like best"
    words = shapes.in_words(taste.best(now))
    choices = f"{len(answers)} choice{'s' * (len(answers) > 1)}"
    return f"{words}; {choices}; {sure(taste.better_than_off(now))}"


def sure(probability: float) -> str:
    percent = f"{min(probability, 0.99):.0%}".replace("%", " %")
    if probability >= taste.SURE:
        return f"likely better than off: {percent}"
    return f"not better than off as far as the choices tell: {percent}"


def compared(session: Session) -> str:
    """What the last sheets say of the schedule that was found, "" where there is none."""
    found = tuple(round(float(x), 4) for x in taste.best(session.belief()))
    own = [r for r in session.rounds if r.kind == COMPARE and r.answer and r.shown[FOUND] == found]
    if not own:
        return ""
    chosen = [r.chosen for r in own]
    counts = {place: chosen.count(place) for place in (FOUND, OFF, MORE)}
    sheets = f"{len(own)} sheet{'s' * (len(own) > 1)}"
    told = (
        f"you chose the found one in {counts[FOUND]} of {sheets}, off in {counts[OFF]}, one more "
        f"step in {counts[MORE]}"
    )
    if len(own) < SHEETS:
        return f"{told}; {SHEETS - len(own)} more to compare"
    if counts[FOUND] == len(own):  # by chance in 1 of 27
        return told
    if counts[MORE] == len(own):
        return f"{told}: one more step looks better to you"
    return f"{told}: you could not tell it from off"
