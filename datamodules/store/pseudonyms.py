"""What stands for a patient outside this machine, and in logs: a keyed hash of the pseudonym.

HMAC-SHA256 (RFC 2104) under a random key that lies in the store and never leaves it: without the
key nobody can find out, by trying likely ids, whose hash it is; with it, the same patient has the
same hash in every run, so that tables can be joined.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
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

        An id that is a mere number is replaced where it stands in quotes: elsewhere it may be a
        line or a size.
        """
        words = [p for p in self._hashes if not p.isdecimal()]
        quoted = r"(?P<quote>['\"])(?P<id>" + _any_of(self._hashes) + r")(?P=quote)"
        text = re.sub(quoted, lambda m: f"{m['quote']}{self.of(m['id'])}{m['quote']}", text)
        return re.sub(rf"(?<!\w)(?:{_any_of(words)})(?!\w)", lambda m: self.of(m[0]), text)

    @cached_property
    def _hashes(self) -> dict[str, str]:
        patients = Store(self._store, with_unlabelled=True).items["patient_id"].unique()
        return {str(patient): self.of(str(patient)) for patient in patients}


def conceal(text: str, store: Path) -> str:
    """A text that goes into a log, without the ids of the store's patients.

    Where they have no hashes the text is withheld, not shown with the ids in it.
    """
    try:
        Store(store)
    except DataError:
        return text  # no patient of it can have been read
    try:
        return Pseudonyms(store).conceal(text)
    except DataError as error:
        return f"(withheld, for it may name patients: {error})"


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


def _any_of(names: Iterable[str]) -> str:
    """A pattern of any of the names, the longest that fits; of none, one that never matches."""
    ordered = sorted(names, key=len, reverse=True)
    return "|".join(map(re.escape, ordered)) or r"(?!)"
