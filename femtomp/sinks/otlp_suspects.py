"""Whose fault it is that a request fails: one record's, or the collector's.

In: batches, and which of their records passed or failed. Out: what is to be sent, and
what became of each record. A record is a suspect when a request with it alone has
failed. It is refused once it has failed often and long enough *while others passed*:
where nothing passes, the collector is at fault, and all records wait.

Records that passed behind a suspect are remembered by their uid, so that they are not
sent again with it.

What must never happen: a good record that is refused because the collector was down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from femtomp.sinks import Delivered, Refused, RetryAfter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from femtomp.record import Record
    from femtomp.sinks import Outcome
    from femtomp.sinks.otlp_answer import Answer

# A record that fails is tried so often, and so long, before it is refused.
MAX_TRIES: Final = 10
PATIENCE_S: Final = 180.0
# So lately the collector must have taken something when a record is refused.
LATELY_S: Final = 60.0
# One that seems to exhaust the collector: once more behind a request that it took.
_TRIES_EXHAUSTED: Final = 1
_FIRST_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 30.0
# Of records that are known. Batches come of whatever lanes have something, so one
# without a suspect says nothing of it. Above this the absent are forgotten: they were
# evicted, or come twice.
MAX_KNOWN: Final = 16 * 1024
# What is logged meanwhile is looked for so often.
_LOOK_S: Final = 1.0


class Piece(NamedTuple):
    """Records of a batch that go in one request.

    `since` is when a request failed that had these and as many others: if one of its
    halves passes afterwards, the other is at fault, or a record in it.
    """

    begin: int
    end: int
    since: Since | None = None


class Since(NamedTuple):
    """When a request failed: the time, and how many had passed before."""

    time: float
    passes: int


class _Suspect:
    """A record that failed alone; its tries count from when another has passed."""

    def __init__(self, since: Since) -> None:
        self.since = since
        self.failures = 0
        self.tries = 0
        self.begun = 0.0
        self.due = 0.0
        self.answer: Answer | None = None

    def failed(self, answer: Answer, now: float, passes: int) -> None:
        self.answer = answer
        self.due = now + min(_FIRST_PAUSE_S * 2.0**self.failures, _MAX_PAUSE_S)
        self.failures = min(self.failures + 1, 10)
        if passes > self.since.passes:
            self.begun = self.begun or now
            self.tries += 1

    def restart(self, since: Since) -> None:
        self.since, self.tries, self.begun = since, 0, 0.0

    @property
    def is_exhausting(self) -> bool:
        return self.answer is not None and self.answer.kind == "exhausted"

    def is_guilty(self, now: float) -> bool:
        """Return whether it has failed often and long enough, where others pass."""
        if self.is_exhausting:
            return self.tries >= _TRIES_EXHAUSTED
        return self.tries >= MAX_TRIES and now - self.begun >= PATIENCE_S


class Suspects:
    """What is known of the records of one sink, from batch to batch."""

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}
        # Done with, behind a suspect: the reason why it was refused, "" for delivered.
        self._done: dict[str, str] = {}
        self._passes = 0
        self._passed_at = 0.0
        self._batch: Sequence[Record] = ()
        self._verdicts: list[str | None] = []

    @property
    def others_pass(self) -> bool:
        """Whether a request has passed since the last of the suspects became one."""
        passes = [s.since.passes for s in self._suspects.values()]
        return bool(passes) and self._passes > max(passes)

    def begin(self, batch: Sequence[Record], now: float) -> list[Piece]:
        """Take a batch; return what of it is to be sent, the last piece first."""
        self._batch = batch
        if not self._suspects and not self._done:
            self._verdicts = [None] * len(batch)
            return [Piece(0, len(batch))]
        uids = [record.uid for record in batch]
        if len(self._suspects) + len(self._done) > MAX_KNOWN:
            kept = set(uids)
            self._done = {u: why for u, why in self._done.items() if u in kept}
            self._suspects = {u: s for u, s in self._suspects.items() if u in kept}
        self._verdicts = [self._done.get(uid) for uid in uids]
        is_apart = self.others_pass
        apart = self._suspects if is_apart else {}
        pieces = []
        begin = 0
        for index, uid in enumerate(uids):
            if self._verdicts[index] is not None or uid in apart:
                pieces.append(Piece(begin, index))
                begin = index + 1
        pieces.append(Piece(begin, len(batch)))
        pieces += [
            Piece(index, index + 1)
            for index, uid in enumerate(uids)
            if is_apart and (s := self._suspects.get(uid)) and s.due <= now
        ]
        return [p for p in reversed(pieces) if p.begin < p.end]

    def failing(self, now: float) -> Since:
        """Return what a request that fails now is marked with."""
        return Since(now, self._passes)

    def passed(self, now: float) -> None:
        """Note that the collector has taken a request."""
        self._passes += 1
        self._passed_at = now

    def failed(self, now: float) -> None:
        """Note that the collector does not work: no record's tries count so far."""
        for suspect in self._suspects.values():
            suspect.restart(self.failing(now))

    def need_a_pass(self, now: float) -> bool:
        """Return whether there is nothing to tell a suspect's fault by.

        The last one that was found must be followed by a pass; and there must have been
        one lately where a suspect is to be refused now.
        """
        present = list(self._present())
        if not present or any(s.is_exhausting for s in present):
            return False
        is_old = now - self._passed_at > LATELY_S
        is_due = is_old and any(s.is_guilty(now) for s in present)
        return is_due or not self.others_pass

    def settle(self, piece: Piece, answer: Answer, now: float) -> None:
        """Note that the records of a piece will not come again."""
        size = piece.end - piece.begin
        is_taken = answer.kind == "accepted"
        lost = min(answer.rejected, size) if is_taken else size
        # Which of them the collector rejected it does not say.
        verdicts = [answer.reason] * lost + [""] * (size - lost)
        self._verdicts[piece.begin : piece.end] = verdicts
        if is_taken:
            self.passed(now)
        for record in self._batch[piece.begin : piece.end] if self._suspects else ():
            self._suspects.pop(record.uid, None)

    def suspect(self, piece: Piece, answer: Answer, now: float) -> None:
        """Note that a record failed alone."""
        uid = self._batch[piece.begin].uid
        if uid not in self._suspects:
            self._suspects[uid] = _Suspect(piece.since or self.failing(now))
        self._suspects[uid].failed(answer, now, self._passes)

    def again(self) -> list[Piece]:
        """Return the records that are to be tried once more, in this batch."""
        if not self.others_pass:
            return []
        return [
            Piece(index, index + 1)
            for index, record in enumerate(self._batch)
            if (s := self._suspects.get(record.uid))
            and s.is_exhausting
            and s.tries < _TRIES_EXHAUSTED
        ]

    def judge(self, now: float) -> None:
        """Refuse the suspects that have failed long enough while others passed."""
        if not self.others_pass:
            return
        for index, record in enumerate(self._batch):
            suspect = self._suspects.get(record.uid)
            if suspect is not None and suspect.is_guilty(now):
                del self._suspects[record.uid]
                self._verdicts[index] = suspect.answer.reason if suspect.answer else ""

    def pause_s(self, now: float) -> float | None:
        """Return when suspects, and what was logged behind them, are looked at again.

        None: nothing passes, so that it is for the collector to recover.
        """
        if not self.others_pass:
            return None
        due = min((suspect.due for suspect in self._present()), default=now)
        return min(max(due - now, 0.1), _LOOK_S)

    def reason(self) -> str:
        """Return why the first suspect failed."""
        answers = (s.answer for s in self._present() if s.answer)
        return next((answer.reason for answer in answers), "")

    def _present(self) -> Iterator[_Suspect]:
        """Give the suspects of the batch."""
        suspects = self._suspects
        return (suspects[r.uid] for r in self._batch if r.uid in suspects)

    @property
    def only_suspects_are_left(self) -> bool:
        """Whether all other records of the batch are done with."""
        return bool(self._suspects) and all(
            verdict is not None or record.uid in self._suspects
            for record, verdict in zip(self._batch, self._verdicts, strict=True)
        )

    def outcome(self, delay_s: float, reason: str) -> Outcome:
        """Return what became of the batch; remember what is done behind a suspect."""
        size = len(self._batch)
        done = next((i for i, v in enumerate(self._verdicts) if v is None), size)
        refused: dict[str, int] = {}
        for why in self._verdicts[:done]:
            if why:
                refused[why] = refused.get(why, 0) + 1
        if self._done or done < size:
            self._remember(done)
        self._batch = ()
        if done < size:
            return RetryAfter(delay_s, reason, done, refused)
        if len(refused) == 1 and size in refused.values():
            return Refused(*refused)
        return Delivered(refused)

    def _remember(self, done: int) -> None:
        """Remember what is done of the batch behind its first `done` records."""
        for record in self._batch[:done]:
            self._done.pop(record.uid, None)
        rest = zip(self._batch[done:], self._verdicts[done:], strict=True)
        self._done |= {r.uid: why for r, why in rest if why is not None}
