"""The mutants: what is changed in which file, and which tests must fail then."""

from __future__ import annotations

from typing import Final, NamedTuple

WORKER_POINTS: Final = "torture:worker-points"


class Mutant(NamedTuple):
    """A fault, the places it is put in, and the tests that must find it.

    `edits` are (old, new): each old text is in the file exactly once. Tests are below
    `tests/`, or a fault of the torture.
    """

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


def _one(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, file, ((old, new),), tests)


MUTANTS: Final = (
    # -- frames and payloads ---------------------------------------------------------
    _one(
        "no CRC check", "codec/frame.py",
        "lane_seed)) != crc:\n            return frames, offset, Tail.BAD",
        "lane_seed)) is None:\n            return frames, offset, Tail.BAD",
        "codec/test_frame.py::test_flipped_bit_loses_one_frame_and_forges_none",
    ),
    _one(
        "frames of any lane validate", "codec/frame.py",
        "return crc32(epoch)", "return 0",
        "codec/test_frame.py::test_frame_of_another_lane_never_validates",
    ),
    _one(
        "no position check after load", "codec/wire.py",
        "tell() != frame.end or ", "",
        "codec/test_wire.py::test_poisoned_record_leaves_all_others_right",
    ),
    _one(
        "a shared Unpickler over ordinary pickles", "codec/wire.py",
        "and not unpickler.memo.copy()", "and True",
        "codec/test_wire.py::test_memo_of_one_record_does_not_reach_the_next",
    ),
    _one(
        "the encoder memoises", "codec/wire.py",
        "pickler.fast = True", "pickler.fast = False",
        "codec/test_wire.py::test_encoder_writes_no_memo_opcode",
    ),
    # -- writers ---------------------------------------------------------------------
    Mutant(
        "commit before payload", "lanes/mapped.py",
        (
            (
                "pack_into(segment, end, length, crc, sequence)",
                ("commit[_COMMIT] = behind\n"
                "                    pack_into(segment, end, length, crc, sequence)"),
            ),
        ),
        (WORKER_POINTS,),
    ),
    Mutant(
        "call counted after its frame", "lanes/mapped.py",
        (
            ("                    words[STARTED] += 1\n", ""),
            (
                "commit[_COMMIT] = behind\n",
                ("commit[_COMMIT] = behind\n"
                "                    words[STARTED] += 1\n"),
            ),
        ),
        (WORKER_POINTS,),
    ),
    _one(
        "no preallocation", "lanes/segment.py",
        "os.posix_fallocate(descriptor, 0, size)", "os.ftruncate(descriptor, size)",
        "lanes/test_writer.py::test_full_disk_is_counted_and_passes",
    ),
    _one(
        "flock for lockf", "lanes/segment.py",
        "fcntl.lockf(descriptor,", "fcntl.flock(descriptor,",
        "lanes/test_writer.py::test_lock_is_held_until_the_owner_dies",
    ),
    Mutant(
        "named before it is locked", "lanes/segment.py",
        (
            (
                "        if lock:\n            fcntl.lockf(",
                ("        if lock:\n            os.rename(temporary, name, src_dir_fd="
                "directory, dst_dir_fd=directory)\n            fcntl.lockf("),
            ),
            (
                "        before_rename(descriptor)\n        os.rename(",
                "        before_rename(descriptor)\n        lock or os.rename(",
            ),
        ),
        ("lanes/test_writer.py::test_lane_is_locked_and_whole_when_its_name_appears",),
    ),
    _one(
        "a call inside a call is like any other (mmap)", "lanes/mapped.py",
        "if busy:", "if busy and False:",
        "lanes/test_writer.py::test_call_inside_a_call_is_kept",
    ),
    _one(
        "a call inside a call is like any other (write)", "lanes/appending.py",
        "if busy:", "if busy and False:",
        "lanes/test_writer.py::test_call_inside_a_call_is_kept",
    ),
    _one(
        "an exception leaves the lane busy", "lanes/mapped.py",
        "                finally:\n                    busy = False",
        "                finally:\n                    pass",
        "lanes/test_writer.py::test_appending_goes_on_after_a_thrown_exception",
    ),
    _one(
        "a retired lane is written on", "lanes/mapped.py",
        "if words[RETIRED]:", "if words[RETIRED] and False:",
        "lanes/test_writer.py::test_retired_lane_tells_its_writer",
    ),
    _one(
        "the descriptor may be anybody's", "lanes/appending.py",
        "if lseek(descriptor, 0, current) != end:", "if end < 0:",
        "lanes/test_writer.py::test_no_frame_gets_into_a_users_file",
    ),
    _one(
        "a torn frame stays", "lanes/writer.py",
        "os.ftruncate(self._known[which][0], end)", "pass",
        "lanes/test_writer.py::test_failing_write_is_counted_and_leaves_no_torn_frame",
    ),
    _one(
        "a fork keeps its parent's lane", "worker/channel.py",
        "        self._spool = None\n        self._lose_lane()\n"
        "        self._opening = RLock()",
        "        self._opening = RLock()",
        "worker/test_handler.py::test_forked_child_has_a_lane_and_a_name_of_its_own",
    ),
    _one(
        "side frames count like others", "lanes/writer.py",
        "sequence = SIDE_SEQUENCE + number", "sequence = number",
        "lanes/test_writer.py::test_call_inside_a_call_is_kept",
    ),
    Mutant(
        "forks without hooks go unseen", "worker/handler.py",
        (
            ("                and mark[0]\n", ""),
            (
                ("            if not mark[0]:\n                catch_up()\n"
                "            if self._is_orphan"),
                "            if self._is_orphan",
            ),
        ),
        ("worker/test_handler.py::test_raw_fork_without_hooks",),
    ),
    _one(
        "the logger takes others for nobody", "worker/logger.py",
        "elif type(each) is not _NullHandler:", "elif found is each:",
        "worker/test_logger.py::test_whoever_comes_later_sees_the_record",
    ),
    _one(
        "the logger's forks without hooks go unseen", "worker/logger.py",
        "            or not mark[0]\n", "",
        "worker/test_logger.py::test_child_that_ran_no_fork_hook",
    ),
    _one(
        "a child has its parent's context", "worker/context.py",
        "            if generation == _generation:\n", "            if True:\n",
        "worker/test_context.py::test_child_that_leaves_its_parents_block_has_none_still",
    ),
    # -- reader and cursors ----------------------------------------------------------
    Mutant(
        "mmap in the reader", "lanes/reader.py",
        (
            ("import os\n", "import mmap\nimport os\n"),
            (
                "data = os.pread(descriptor, min(CHUNK_BYTES, size - offset), offset)",
                ("data = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)"
                "[offset : min(size, offset + CHUNK_BYTES)]"),
            ),
        ),
        ("lanes/test_reader.py::test_reader_maps_nothing",),
    ),
    _one(
        "what is skipped is not counted", "lanes/reader.py",
        "corrupt = min(there - sequence, MAX_LOST)", "corrupt = 0",
        "lanes/test_reader.py::test_flipped_bit_costs_one_record_and_is_counted",
    ),
    _one(
        "what is lost at the end is not counted", "lanes/reader.py",
        "if not self.final or number == SIDE:", "if True:",
        "lanes/test_reader.py::test_damaged_last_record_is_counted",
    ),
    _one(
        "a record may come again", "lanes/reader.py",
        "if there < sequence:", "if False:",
        "lanes/test_reader.py::test_what_is_there_twice_comes_once",
    ),
    _one(
        "an interrupted call is not numbered", "lanes/mapped.py",
        "counted = end, counted[1] + 1", "counted = end, counted[1]",
        "lanes/test_writer.py::test_records_are_numbered_without_a_gap",
    ),
    _one(
        "the directory is read for each dead worker", "supervisor/poller.py",
        "        for member in gone:\n            member.lane.refresh()\n",
        "        for member in gone:\n            self.scan()\n"
        "            member.lane.refresh()\n",
        "supervisor/test_poller.py::test_thousands_that_end_at_once_cost_one_look",
    ),
    _one(
        "lanes that wait are forgotten", "supervisor/poller.py",
        "            self._waiting[_CAPACITY] += 1\n            return None\n        try:",
        "            return None\n        try:",
        "supervisor/test_poller.py::test_more_lanes_than_descriptors_are_read_in_turn",
    ),
    _one(
        "a living owner's records are missing", "supervisor/poller.py",
        "member.lane.final = member.lane.epoch in dead", "member.lane.final = True",
        "supervisor/test_poller.py::test_lane_of_the_living_is_not_deleted",
    ),
    _one(
        "damage in a live lane is believed at once", "lanes/reader.py",
        "        now = time.monotonic()\n        place, since",
        "        return True\n        now = time.monotonic()\n        place, since",
        "lanes/test_reader.py::"
        "test_damage_in_a_live_lane_is_stepped_over_after_a_while",
    ),
    _one(
        "cursors overwrite themselves", "lanes/cursor.py",
        "(2 * pair + generation % 2) * _SLOT_BYTES", "(2 * pair) * _SLOT_BYTES",
        "lanes/test_cursor.py::test_torn_commit_leaves_the_one_before",
    ),
    _one(
        "damaged cursors are believed", "lanes/cursor.py",
        'if crc32(slot[:_CRC_AT]) != int.from_bytes(slot[_CRC_AT:], "little"):',
        "if not any(slot):",
        "lanes/test_cursor.py::test_flipped_bit_goes_back_one_commit_at_most",
    ),
    _one(
        "a segment that cannot be opened is passed", "lanes/reader.py",
        "if size is None or position.offset < size:",
        "if size is not None and position.offset < size:",
        "lanes/test_reader.py::test_segment_that_cannot_be_opened_is_not_skipped",
    ),
    # -- engine ----------------------------------------------------------------------
    _one(
        "position moved without its counters", "supervisor/batch.py",
        ".append(step._replace(counters=counters))",
        ".append(step._replace(counters=Counters()))",
        "supervisor/test_batch.py::test_counters_add_up_whatever_prefix_was_accepted",
    ),
    _one(
        "cursor before delivery", "supervisor/pump.py",
        "        done = refused = 0\n",
        "        self._commit(batch, Done(len(batch.records)), None)\n"
        "        done = refused = 0\n",
        "supervisor/test_pump.py::test_finish_ends_a_pump_that_waits_for_its_destination",
    ),
    _one(
        "the end is read before the lock", "supervisor/poller.py",
        "        self.scan()\n        for member in gone:\n"
        "            member.lane.refresh()\n",
        "        for member in gone:\n",
        "supervisor/test_poller.py::"
        "test_what_came_before_the_owners_death_is_seen_after_it",
    ),
    _one(
        "a lost lock is a death", "supervisor/poller.py",
        "for m in gone if _has_ended(m)}", "for m in gone}",
        "supervisor/test_poller.py::test_lane_of_the_living_is_not_deleted",
    ),
    Mutant(
        "unlink before the totals", "supervisor/poller.py",
        (
            ("        self._totals.add(epoch, member)\n", ""),
            (
                "            member.unlink(self._spool.cursors)\n",
                ("            member.unlink(self._spool.cursors)\n"
                "            self._totals.add(epoch, member)\n"),
            ),
        ),
        (
            ("supervisor/test_poller.py::"
            "test_what_a_dead_engine_was_reaping_is_reaped_first"),
        ),
    ),
    _one(
        "`.own` is not the last to go", "supervisor/members.py",
        '("side", "pull", "cur", "own")', '("own", "side", "pull", "cur")',
        "supervisor/test_poller.py::test_what_a_dead_engine_was_reaping_is_reaped_first",
    ),
    _one(
        "a half-reaped lane comes in its turn", "supervisor/totals.py",
        "                self._finish(spool, directory, epoch, sinks)\n",
        "                pass\n",
        "supervisor/test_poller.py::test_what_a_dead_engine_was_reaping_is_reaped_first",
    ),
    _one(
        "segments freed that a sink needs", "supervisor/poller.py",
        "reached = min(", "reached = max(",
        "supervisor/test_poller.py::test_segment_is_kept_for_the_last_sink",
    ),
    _one(
        "half a spool is served for ever", "supervisor/guardian.py",
        "    if spool.was_removing():\n        spool.remove()\n", "",
        "supervisor/test_guardian.py::test_a_half_deleted_spool_needs_no_engine",
    ),
    _one(
        "time orders the records of a lane", "supervisor/batch.py",
        "keys += accumulate((r.timestamp for r in stream.records), max)",
        "keys += [r.timestamp for r in stream.records]",
        "supervisor/test_batch.py::"
        "test_clock_that_is_set_back_keeps_the_order_of_a_lane",
    ),
    _one(
        "a restarted engine reports again", "supervisor/guardian.py",
        "launch = replace(launch, ready=-1)", "pass",
        "supervisor/test_guardian.py::test_only_the_first_engine_is_told_where_to_report",
    ),
    _one(
        "a cut line is written behind", "sinks/log_file.py",
        "        if size and size != self._end and os.pread",
        "        if False and os.pread",
        "sinks/test_file.py",
    ),
    _one(
        "supervisors write a file at once", "sinks/log_file.py",
        "            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "sinks/test_rotation.py::test_two_drivers_rotate_the_same_file",
    ),
    _one(
        "a plain file goes before the compressed one is there",
        "sinks/housekeeping.py",
        "    os.rename(part, packed)\n",
        "    _unlink(path)\n    os.rename(part, packed)\n",
        "sinks/test_rotation.py::test_step_that_fails_takes_nothing_away",
    ),
    # -- orphans ---------------------------------------------------------------------
    _one(
        "an adopter takes another lock than the master's", "supervisor/orphans.py",
        "lock = Lock(found, MASTER_LOCK)", 'lock = Lock(found, "adopter.lock")',
        "processes/test_adoption_races.py::test_the_masters_lock_decides",
    ),
    _one(
        "an adopter lets go of the lock", "supervisor/orphans.py",
        "    return Claimed(spool, lock)",
        "    lock.release()\n    return Claimed(spool, lock)",
        "processes/test_adoption_races.py::test_the_masters_lock_decides",
    ),
    _one(
        "a dead master's spool is an orphan", "supervisor/orphans.py",
        "return is_orphaned(found) and not _has_master(found)",
        "return not _has_master(found)",
        "processes/test_adoption_races.py::test_half_a_pair_is_no_orphan",
    ),
)  # fmt: skip
