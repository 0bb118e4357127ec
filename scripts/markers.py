"""Replace a generated part of a Markdown file, which stands between two comments."""

from lab.errors import LabError


def replace_between(text: str, begin: str, end: str, content: str) -> str:
    """Return `text` with `content` between its two markers. Raises LabError without them."""
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise LabError("the text lacks the markers of its table", fix=f"put back {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"
