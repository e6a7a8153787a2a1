"""The mutants of the way into the journal; as in `edits`."""

from __future__ import annotations

from typing import Final

from tests.mutants.edits import Mutant


def _one(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"journald: {name}", file, ((old, new),), tests)


CODEC: Final = "codec/journald.py"
NAMES: Final = "codec/journald_names.py"
DRIVER: Final = "sinks/journald.py"
SENDERS: Final = "sinks/journald_senders.py"
POOL: Final = "real/test_journald_pool.py::"
BYTES: Final = "real/test_journald_bytes.py::"

JOURNALD: Final = (
    _one(
        "newlines are not looked for", CODEC,
        'if text.count("\\n") == lines:', "if True:",
        "codec/test_journald.py::test_the_fast_way_writes_what_the_careful_one_does",
        f"{BYTES}test_hostile_record_is_one_exact_entry",
    ),
    _one(
        "big-endian lengths", CODEC, '"little"', '"big"',
        "codec/test_journald.py::test_no_value_can_forge_a_field",
        f"{BYTES}test_hostile_message_is_exact",
    ),
    _one(
        "no limit of fields", CODEC, "MAX_FIELDS: Final = 1000", "MAX_FIELDS: Final = 2000",
        "real/test_journald.py::test_a_thousand_extras_do_not_lose_the_entry",
    ),
    _one(
        "extras may have standard names", NAMES, "or name in _RESERVED", "",
        "codec/test_journald.py::test_names_of_extras",
    ),
    _one(
        "names are not cut", NAMES, "        name = name[:MAX_NAME_CHARS]\n", "",
        f"{BYTES}test_hostile_record_is_one_exact_entry",
    ),
    _one(
        "a collision is not named", CODEC,
        "or taken.setdefault(name, path) != path", "",
        "codec/test_journald.py::test_keys_that_fall_together_are_both_kept",
    ),
    _one(
        "no reconnecting", DRIVER, "                self.connect()\n", "",
        "sinks/test_journald_driver.py::test_rebound_socket_loses_nothing_in_between",
        f"{POOL}test_journald_that_goes_and_comes_back_gets_all",
    ),
    _one(
        "unsealed memfd", DRIVER, "fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)", "pass",
        "real/test_journald.py::test_large_record_of_an_unprivileged_user_is_stored",
    ),
    _one(
        "a full queue drops", DRIVER,
        "                return self._slow(accepted)", "                continue",
        f"{POOL}test_journald_that_goes_and_comes_back_gets_all",
    ),
    _one(
        "a pid that is used again", SENDERS,
        "_began_at(pid) <= logged_at + _SLACK_S", "pid",
        f"{POOL}test_process_that_is_younger_than_the_record_is_not_its_sender",
    ),
    _one(
        "no worker is named", SENDERS, "os.geteuid() == 0", "False",
        f"{POOL}test_worker_is_named_while_it_lives",
    ),
    _one(
        "the pace is not kept", DRIVER, "and self._may_pace", "and False",
        "real/test_journald_rate.py::test_pace_keeps_to_the_limit",
    ),
    _one(
        "a pool's end is a death", "supervisor/deaths.py",
        "if number not in _ORDINARY:", "if number:",
        "real/test_catalog.py::test_ordinary_ends_are_no_deaths",
    ),
    _one(
        "an outage is not told", "supervisor/news.py",
        "for sink, waiting in self._waiting.items():\n                if sink != but:",
        "for sink, waiting in ():\n                if sink != but:",
        "real/test_catalog.py::test_what_happens_is_told_with_ids_that_journalctl_explains",
    ),
)  # fmt: skip
