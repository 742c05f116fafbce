"""From a request that was read to an answer: conversation, decision, completion, and what is
remembered of it. No HTTP server and no Ray.

Invariant: the route is what `agent.step.decide` says of the features of the conversation; whatever
departs from what was evaluated is told in the answer (`calibrated: false`, and why).
"""

import time
from array import array
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from msgspec.json import encode

from r2v_dist.config.serve import ServeConfig
from r2v_dist.language_model import Answer
from r2v_dist.router.policies import Router
from r2v_dist.serving import teacher_reply, telling
from r2v_dist.serving.access import require_right
from r2v_dist.serving.answers import Completion, Decode, completion_of, sending_order
from r2v_dist.serving.attempt import TRACE_HEADERS
from r2v_dist.serving.begun import Begun, Caller
from r2v_dist.serving.budget import Budgets, Limit, conversation_limit
from r2v_dist.serving.controls import SESSION_HEADERS
from r2v_dist.serving.conversation import Conversation, client_system, read_conversation, turn_of
from r2v_dist.serving.policy import Point, Policy, forget_prediction, seen
from r2v_dist.serving.shadow import take_watched
from r2v_dist.serving.sides import Slm, Teacher
from r2v_dist.serving.sse import DONE, event
from r2v_dist.serving.state import Actor, Answered, StateCache
from r2v_dist.serving.step import ALONE, ASKED, ServedStep, StepOutcome, take
from r2v_dist.serving.upstream_reply import TeacherDown
from r2v_dist.serving.wire import ChatRequest

Listener = Callable[[Begun], object]


class Gateway:
    """The gateway of one policy. `decode` gives the SLM's tokens as text; listeners are told of
    every answer after its last byte."""

    def __init__(
        self,
        slm: Slm,
        teacher: Teacher,
        policy: Policy,
        config: ServeConfig,
        max_steps: int | None = None,
        decode: Decode | None = None,
        uncalibrated: tuple[str, ...] = (),
    ) -> None:
        self.slm = slm
        self.teacher = teacher
        self.policy = policy
        self.config = config
        self._max_steps = config.max_steps or max_steps
        self._decode = decode
        self._uncalibrated = uncalibrated
        self.state = StateCache(config.state_entries)
        self.budgets = Budgets()
        self.listeners: list[Listener] = []

    async def begin(self, chat: ChatRequest, headers: Mapping[str, str], caller: Caller) -> Begun:
        """Decide who answers; a teacher's answer may then have begun. Raises ApiError,
        TeacherDown, TeacherRefused."""
        start_s = time.perf_counter()
        controls = chat.controls
        require_right(controls, caller, self.config.max_teacher_calls)
        point = self.policy.point(controls.operating_point)
        if controls.threshold is not None:
            point = Point("threshold", controls.threshold)
        session = next((headers[name] for name in SESSION_HEADERS if name in headers), "")
        conversation = read_conversation(
            chat.messages, chat.tools, (caller.name, session), self.state, self.slm.system_prompt
        )
        context = conversation.context(controls.max_steps or self._max_steps, controls.goal)
        router, threshold = self._router(chat, point, conversation, session)
        step = ServedStep(
            chat,
            conversation,
            self.slm,
            self.teacher,
            self.budgets,
            self._limits(chat, conversation, session, caller),
            self.config.slm_deadline_s,
        )
        forget_prediction()
        forced = controls.route in ("slm", "teacher")
        fallback = self._may_fall_back(chat)
        if self.config.shadow and not (forced or controls.dry_run):
            side = self.config.shadow
            outcome = await take_watched(step, router, context, side, fallback)
        else:
            outcome = await take(step, router, context, fallback, forced)
        predicted = seen()
        return Begun(
            chat,
            caller,
            session,
            conversation,
            context,
            point,
            threshold,
            step,
            outcome,
            predicted,
            self._departures(chat, conversation, outcome, self.policy.explores(point, threshold)),
            start_s,
            max(0.0, time.perf_counter() - start_s - step.model_s) * 1e3,
            carrier={name: headers[name] for name in TRACE_HEADERS if name in headers},
        )

    def _may_fall_back(self, chat: ChatRequest) -> bool:
        return self.config.when_teacher_fails == "slm" and chat.controls.fallback is not False

    def body(self, begun: Begun) -> dict[str, Any]:
        """The whole answer. Raises ApiError."""
        reply = begun.outcome.reply
        if reply is None:
            body = self.compose(begun).body(self.extension(begun))
            self._finished(begun, "served")
            return body
        assert reply.payload is not None
        begun.heard = teacher_reply.whole(reply.payload, self.extension(begun))
        self._finished(begun, "served")
        return reply.payload

    async def events(self, begun: Begun) -> AsyncIterator[bytes]:
        """The answer as the bytes of events. Raises Truncated and TeacherDown in mid-stream."""
        reply = begun.outcome.reply
        with_usage = begun.chat.include_usage
        extension = self.extension(begun)
        status = "cancelled"
        try:
            if reply is not None and reply.events is not None:
                async for data in teacher_reply.passing(reply, begun.heard, extension, with_usage):
                    yield data
            else:
                for chunk in self._chunks(begun, extension, with_usage):
                    yield event(encode(chunk))
                yield event(DONE)
            status = "served"
        except (teacher_reply.Truncated, TeacherDown) as error:
            status = "truncated" if isinstance(error, teacher_reply.Truncated) else "failed"
            if reply is not None:
                reply.broke()
            raise
        except Exception:
            status = "failed"
            raise
        finally:
            if reply is not None:
                reply.close()
            self._finished(begun, status)

    def compose(self, begun: Begun) -> Completion:
        """The completion that candidates make. Raises ApiError where they do not fit the request,
        which a stream has to know before its headers."""
        if begun.completion is None:
            begun.completion = self._completion(begun)
        return begun.completion

    def extension(self, begun: Begun) -> dict[str, Any]:
        """The `r2v` object of an answer."""
        versions = {
            "router": self.policy.version,
            "policy": self.slm.version,
            "teacher": self.teacher.version,
        }
        return telling.extension(begun, versions)

    def abandoned(self, begun: Begun, status: str) -> None:
        """Nobody waits for this answer any more."""
        if begun.outcome.reply is not None:
            begun.outcome.reply.close()
        if begun.status == "begun":
            self._finished(begun, status)

    def _chunks(
        self, begun: Begun, extension: dict[str, Any], with_usage: bool
    ) -> list[dict[str, Any]]:
        reply = begun.outcome.reply
        if reply is None:
            return self.compose(begun).chunks(extension, with_usage)
        assert reply.payload is not None  # an endpoint that cannot stream
        begun.heard = teacher_reply.whole(reply.payload, extension)
        return teacher_reply.as_chunks(reply.payload, extension, with_usage)

    def _completion(self, begun: Begun) -> Completion:
        outcome = begun.outcome
        decision = outcome.decision
        if outcome.taught is not None:
            order = list(range(len(outcome.taught.candidates)))
            return completion_of(outcome.taught, order, self.teacher.version, begun.chat, None)
        proposal: Answer | None = decision.proposal
        assert proposal is not None
        order = sending_order(proposal, decision.verifier_scores, decision.chosen_index)
        name = f"r2v/slm:{self.slm.version}"
        return completion_of(proposal, order, name, begun.chat, self._decode)

    def _finished(self, begun: Begun, status: str) -> None:
        """Remember the answer, and tell the listeners."""
        if begun.status != "begun":  # a stream that its caller left is closed again later
            return
        begun.status = status
        begun.id = begun.heard.id
        if begun.completion is not None:
            begun.id = begun.completion.id
            begun.usage = begun.completion.usage
        elif isinstance(begun.heard.usage, dict):
            begun.usage = {
                k: v for k, v in begun.heard.usage.items() if isinstance(v, int) and 0 <= v < 2**31
            }
        if status == "served" and not begun.dry:
            self._remember(begun)
        for listener in self.listeners:
            listener(begun)

    def _remember(self, begun: Begun) -> None:
        decision = begun.outcome.decision
        choices: list[tuple[dict[str, Any], tuple[int, ...] | None]] = []
        if begun.completion is not None:
            choices = [(choice.message, choice.ids) for choice in begun.completion.choices]
        else:
            choices = [(begun.heard.message, None)]
        for place, (message, ids) in enumerate(choices):
            key = begun.conversation.after(message)
            token_ids = array("i", ids) if ids is not None and begun.route == "slm" else None
            if place == 0:
                begun.state = key
                turn = turn_of("", message, None)
                begun.action = (
                    turn if token_ids is None else replace(turn, action_ids=tuple(token_ids))
                )
            best = max(decision.verifier_scores, default=float("nan"))
            actor: Actor = "slm" if begun.route == "slm" else "teacher"
            prompt_tokens = begun.step.proposal.prompt_tokens if begun.step.proposal else 0
            self.state.put(
                key, Answered(actor, token_ids, best, decision.score, prompt_tokens, time.time())
            )

    def _router(
        self, chat: ChatRequest, point: Point, conversation: Conversation, session: str
    ) -> tuple[Router, float | None]:
        controls = chat.controls
        if controls.route in ("slm", "teacher"):
            return (ALONE if controls.route == "slm" else ASKED), None
        if controls.dry_run and not any(conversation.known):
            # Who asks before a conversation begins learns of no draw, or could choose among names.
            return self.policy.at(point, None)
        return self.policy.at(point, session or conversation.opening.hex())

    def _limits(
        self, chat: ChatRequest, conversation: Conversation, session: str, caller: Caller
    ) -> list[Limit]:
        config = self.config
        caller_budget = chat.controls.max_teacher_calls
        budgets = [most for most in (config.max_teacher_calls, caller_budget) if most is not None]
        limits = []
        if budgets:
            most = caller_budget if caller.admin and caller_budget is not None else min(budgets)
            if session:
                limits.append(Limit(conversation_limit(caller.name, session), most))
            else:
                limits.append(Limit("", most, conversation.escalations))
        if config.max_teacher_calls_per_key is not None:
            limits.append(Limit(f"key:{caller.name}", config.max_teacher_calls_per_key))
        return limits

    def _departures(
        self, chat: ChatRequest, conversation: Conversation, outcome: StepOutcome, explores: bool
    ) -> tuple[str, ...]:
        """In what this answer departs from what was evaluated."""
        departures = list(self._uncalibrated)
        system = client_system(chat.messages)
        if system is not None and system != self.slm.system_prompt:
            departures.append("system")
        if chat.max_tokens is not None and chat.max_tokens < self.slm.sampling.max_tokens:
            departures.append("sampling")
        if not conversation.exact:
            departures.append("features")
        if self._max_steps is None and chat.controls.max_steps is None:
            departures.append("no_step_limit")
        if explores:
            departures.append("explored")
        if outcome.reason not in ("router", "held"):
            departures.append(outcome.reason)
        return tuple(departures)
