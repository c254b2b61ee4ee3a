"""What stands for a patient outside this machine, and in logs: a keyed hash of the pseudonym.

HMAC-SHA256 (RFC 2104) under a random key that lies in the store and never leaves it: without the
key nobody can find out, by trying likely ids, whose hash it is; with it, the same patient has the
same hash in every run, so that tables can be joined.
"""

import hashlib
import hmac
import itertools
import re
import secrets
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files import write_once
from datamodules.store.folder import Store

KEY_FILE = "patient.key"
_KEY_BYTES = 32
_HEX_DIGITS = 16  # 64 bits: two of a million patients agree once in 37 million studies


class Pseudonyms:
    """The hashes of a store's patients.

    Args:
        store: Folder of the store. Its key is made now if it has none.

    Raises:
        DataError: If the key is damaged, or cannot be read or made.
    """

    def __init__(self, store: Path) -> None:
        self._store = Path(store)
        self._key = make_key(self._store)

    def of(self, patient_id: str) -> str:
        """The hash of a patient: 16 hex digits."""
        return hmac.digest(self._key, patient_id.encode(), hashlib.sha256).hex()[:_HEX_DIGITS]

    def find(self, patient_hash: str) -> str:
        """The patient that a hash stands for.

        Raises:
            DataError: If it is the hash of no patient of this store.
        """
        for patient, known in self._hashes.items():
            if known == patient_hash.lower():
                return patient
        raise DataError(
            f"hash must be that of one of the store's {len(self._hashes)} patients, got "
            f"{patient_hash!r} ({self._store}). Take the store that the run was made from."
        )

    def conceal(self, text: str) -> str:
        """The text with patient ids replaced by their hashes.

        An id is found as whole words, in any case, alone or joined to others by `_` or any other
        sign: `clip_P001_a.avi`, `p001`; the sign between its own words may be another. An id of
        up to three digits (`007` counts as none) or two letters is replaced only in quotes, joined
        by `_`, or after a word as `patient` or `id`: elsewhere it may be a line or a size. Digits
        after a decimal point stay.
        """
        text = unicodedata.normalize("NFC", text)
        words = list(_WORD.finditer(text))
        shown, end, at = [], 0, 0
        while at < len(words):
            found = next((i for i in self._ids_from(words[at]) if i.is_at(text, words, at)), None)
            if found is None:
                at += 1
                continue
            shown += [text[end : words[at].start()], found.hash]
            at += len(found.words)
            end = words[at - 1].end()
        return "".join([*shown, text[end:]])

    def _ids_from(self, word: re.Match[str]) -> Sequence["_Id"]:
        return self._ids.get(word[0].casefold(), ())

    @cached_property
    def _ids(self) -> dict[str, list["_Id"]]:
        """Ids by their first word, those of most words first."""
        ids: dict[str, list[_Id]] = {}
        for patient, patient_hash in self._hashes.items():
            text = unicodedata.normalize("NFC", patient).casefold()
            if words := _WORD.findall(text):
                signs = _WORD.split(text)[1:-1]
                known = _Id(tuple(words), tuple(signs), patient_hash)
                ids.setdefault(words[0], []).append(known)
        for of_word in ids.values():
            of_word.sort(key=lambda each: -len(each.words))
        return ids

    @cached_property
    def _hashes(self) -> dict[str, str]:
        patients = Store(self._store, with_unlabelled=True).items["patient_id"].unique()
        return {str(patient): self.of(str(patient)) for patient in patients}


_WORD = re.compile(r"[^\W_]+")
_NAMING = re.compile(r"(?:patients?|subjects?|cases?|p?ids?)[^a-z0-9]{1,6}$", re.IGNORECASE)


@dataclass(frozen=True)
class _Id:
    words: tuple[str, ...]  # folded to one case
    signs: tuple[str, ...]  # between them
    hash: str

    @cached_property
    def is_number(self) -> bool:
        return "".join(self.words).isdecimal()

    @cached_property
    def is_ordinary(self) -> bool:
        """Whether a text without an id would hold it: up to three digits, or up to two letters.

        `007` is none: no count and no size begins with zeros.
        """
        whole = "".join(self.words)
        if self.is_number:
            return len(whole) < (3 if whole[0] == "0" else 4)
        return whole.isalpha() and len(whole) < 3

    def is_at(self, text: str, words: Sequence[re.Match[str]], at: int) -> bool:
        """Whether the id begins with this word of the text."""
        here = words[at : at + len(self.words)]
        if tuple(word[0].casefold() for word in here) != self.words:
            return False
        between = [text[a.end() : b.start()] for a, b in itertools.pairwise(here)]
        for own, sign in zip(self.signs, between, strict=True):
            if sign != own and (sign != "_" if self.is_number else len(sign) > 1):
                return False
        start, end = here[0].start(), here[-1].end()
        if self.is_number and _is_fraction(text, start, end):
            return False
        return not self.is_ordinary or _means_id(text, start, end)


def _is_fraction(text: str, start: int, end: int) -> bool:
    """Whether digits are the decimals of a number, or the milliseconds of a log's time."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before[:1].isdecimal() and before[1:] == ("," if end - start == 3 else "."):
        return not re.match(r"[.-]\w|_", after)
    return False


def _means_id(text: str, start: int, end: int) -> bool:
    """Whether a word stands in quotes, is joined by `_`, or follows `patient`, `id` or the like."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if "_" in (before, after) or (before == after and before in ("'", '"')):
        return True
    return bool(_NAMING.search(text[max(0, start - 16) : start]))


def concealer(store: Path) -> Callable[[str], str]:
    """What takes the ids of the store's patients out of texts that go into a log.

    Where they have no hashes the text is withheld, not shown with the ids in it.
    """
    try:
        Store(store)
    except DataError:
        return str  # no patient of it can have been read
    try:
        pseudonyms = Pseudonyms(store)
        pseudonyms.conceal("an id")  # reads the table now, not amid an error
    except DataError as error:
        withheld = f"(withheld, for it may name patients: {error})"
        return lambda _: withheld
    return pseudonyms.conceal


def make_key(store: Path) -> bytes:
    """The key of a store; made, readable by its owner only, where there is none.

    Raises:
        DataError: If it is damaged, or cannot be read or made.
    """
    path = store / KEY_FILE
    try:
        if not path.exists():
            write_once(path, secrets.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"key of the patient hashes must be readable, got {type(error).__name__} ({path}). "
            "Make the store's folder writable, or bring the file back from a backup; deleted, it "
            "is made anew and patients get other hashes."
        ) from error
    if len(key) != _KEY_BYTES:
        raise DataError(
            f"key of the patient hashes must have {_KEY_BYTES} bytes, got {len(key)} ({path}). "
            "Bring the file back from a backup; deleted, it is made anew and patients get other "
            "hashes."
        )
    return key
