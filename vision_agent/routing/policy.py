"""Which routes an answer may take: free, some of them, none, one that it must begin with, at most so many.

A route that is not allowed is a token that is never written. The other rules are a grammar, `RouteRule`, because
they depend on what was written before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vision_agent.errors import ArgumentTypeError, InputError, RouteError, bad_argument
from vision_agent.plugins.constraint import Constraint, ConstraintState
from vision_agent.routing.adapter import Route

_LONGEST_PHRASE = 48  # tokens that may stand before a route that must come


@dataclass(frozen=True)
class RouteChoice:
    """The routes of an answer.

    Attributes:
        allowed: names of the routes it may take.
        first: name of the route that it begins with; None to leave that to the model.
        most: most routing tokens; None for any number.
    """

    allowed: tuple[str, ...] = ()
    first: str | None = None
    most: int | None = None

    @classmethod
    def of(
        cls,
        loaded: Mapping[str, Route],
        model: str,
        routes: Sequence[str] | None,
        first: str | None,
        most: int | None,
    ) -> "RouteChoice":
        """Return the choice, checked.

        Args:
            loaded: the routes that there are.
            routes: None for all of them, or, with a first route, for that one alone.

        Raises:
            RouteError: a name that is not loaded, or a first route that is not among those allowed.
            InputError: `max_routes` that is no number, negative, or 0 where a route must come.
            ArgumentTypeError: names that are no strings.
        """
        if isinstance(routes, str) or (routes is not None and not all(isinstance(name, str) for name in routes)):
            raise ArgumentTypeError(bad_argument("routes", "a list of names", routes))
        if first is not None and not isinstance(first, str):
            raise ArgumentTypeError(bad_argument("first_route", "the name of a route", first))
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < (first is not None)):
            least = 0 if first is None else 1
            raise InputError(bad_argument("max_routes", f"a whole number from {least}", most))
        free = loaded if first is None else (first,)
        allowed = tuple(free if routes is None else routes)
        for name in (*allowed, *([] if first is None else [first])):
            find_route(loaded, name, model)
        if first is not None and first not in allowed:
            raise RouteError(f"`first_route` is {first!r}, but `routes` allows {list(allowed)} alone")
        return cls(allowed, first, most)

    def narrows(self, loaded: Mapping[str, Route]) -> bool:
        """Return whether it is anything but free."""
        return self.first is not None or self.most is not None or any(name not in self.allowed for name in loaded)

    def forbidden(self, loaded: Mapping[str, Route]) -> list[int]:
        """Return the tokens that must not be written at all."""
        return [route.token_id for name, route in loaded.items() if name not in self.allowed]

    def constraint(
        self, loaded: Mapping[str, Route], end_ids: Sequence[int], max_new_tokens: int
    ) -> "RouteRule | None":
        """Return the grammar of an answer of at most so many tokens; None where it is free."""
        last = tuple(route.token_id for name, route in loaded.items() if name in self.allowed and route.spec.ends)
        if self.first is None and self.most is None and not last:
            return None
        return RouteRule(
            tokens=tuple(route.token_id for route in loaded.values()),
            end_ids=tuple(end_ids),
            first=None if self.first is None else loaded[self.first].token_id,
            latest=min(_LONGEST_PHRASE, max_new_tokens - 1),
            most=self.most,
            last=last,
        )


def find_route(loaded: Mapping[str, Route], name: str, model: str) -> Route:
    """Return the route of that name. Raises RouteError, with the remedy, where there is none."""
    if name not in loaded:
        raise RouteError(
            f"{model!r} has no {name!r} route; it has {sorted(loaded)}. "
            "Load an adapter trained on this checkpoint with `load_adapter(folder)`"
        )
    return loaded[name]


@dataclass(frozen=True)
class RouteRule(Constraint):
    """A grammar of routing tokens among free text.

    A route that must come first comes where the model would end its phrase: at the first place where it would write
    a routing token or end the answer, after at least one token of text.

    Attributes:
        tokens: ids of all routing tokens.
        end_ids: ids that end an answer.
        first: the routing token that must come before any other and before the end; None for none.
        latest: the place, among the answer's tokens, where it comes at the latest.
        most: most routing tokens; None for any number.
        last: routing tokens that the answer ends with.
    """

    tokens: tuple[int, ...]
    end_ids: tuple[int, ...]
    first: int | None = None
    latest: int = _LONGEST_PHRASE
    most: int | None = None
    last: tuple[int, ...] = ()

    def start(self) -> "RouteRuleState":
        return RouteRuleState(self)


class RouteRuleState(ConstraintState):
    """How many tokens and routes an answer has so far."""

    def __init__(self, rule: RouteRule) -> None:
        self._rule = rule
        self._length = 0
        self._routes = 0
        self._ended = False

    def mask(self, scores_V: Tensor) -> Tensor:
        rule = self._rule
        if self._ended:
            masked_V = scores_V.new_full(scores_V.shape, -float("inf"))
            masked_V[list(rule.end_ids)] = scores_V[list(rule.end_ids)]
            return masked_V
        if rule.first is not None and not self._routes:
            closing = [*rule.tokens, *rule.end_ids]
            due = self._length >= rule.latest or (self._length and int(scores_V.argmax()) in closing)
            if due:
                masked_V = scores_V.new_full(scores_V.shape, -float("inf"))
                masked_V[rule.first] = 0.0
                return masked_V
            return _without(scores_V, closing)
        if rule.most is not None and self._routes >= rule.most:
            return _without(scores_V, rule.tokens)
        return scores_V

    def forces(self, token: int) -> bool:
        return self._ended or (token == self._rule.first and not self._routes)

    @property
    def complete(self) -> bool:
        return self._rule.first is None or self._routes > 0

    def accept(self, token: int) -> None:
        self._length += 1
        self._routes += token in self._rule.tokens
        self._ended = token in self._rule.last


def _without(scores_V: Tensor, tokens: Sequence[int]) -> Tensor:
    masked_V = scores_V.clone()
    masked_V[list(tokens)] = -float("inf")
    return masked_V
