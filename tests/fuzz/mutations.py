"""Changes of files by chance, the same in each run: of bytes, of written numbers, of the values of JSON files."""

import copy
import json
import random
from typing import Any

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    10**30,
    0.5,
    -1e308,
    "",
    "\x00",
    "../../etc/passwd",
    "x" * 5000,
    [],
    {},
    [None],
    {"a": {}},
    [[[[1]]]],
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change a file in one to four places."""
    for _ in range(chance.randint(1, 4)):
        if not data:
            return data
        at = chance.randrange(len(data))
        length = min(chance.choice((1, 2, 4, 16, 200)), len(data) - at)
        kind = chance.randrange(7)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + chance.randbytes(length) + data[at + length :]
        elif kind == 2:
            number, width = chance.choice(_NUMBERS), chance.choice((1, 2, 4))
            order = chance.choice(("big", "little"))
            data = data[:at] + (number % 256**width).to_bytes(width, order) + data[at + width :]
        elif kind == 3:
            data = data[:at] + data[at + length :]
        elif kind == 4:
            data = data[:at] + data[at : at + length] * chance.randint(2, 20) + data[at + length :]
        elif kind == 5:
            data = data[:at]
        else:
            other = chance.randrange(len(data))
            data = data[:at] + data[other : other + length] + data[at + length :]
    return data


def mutated_digits(data: bytes, chance: random.Random) -> bytes:
    """Exchange numbers that are written out, as PDFs have them."""
    for _ in range(chance.randint(1, 4)):
        places = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
        at = chance.choice(places)
        number = chance.choice((b"0", b"-1", b"1", b"99999", b"2147483648", b"1e9", b"0.00001", b"7"))
        data = data[:at] + number + data[at + 1 :]
    return data


def mutated_json(data: bytes, chance: random.Random) -> bytes:
    """Change one to three values of a JSON file, wherever they are, or its bytes."""
    if chance.random() < 0.2:
        return mutated(data, chance)
    content = copy.deepcopy(json.loads(data))
    for _ in range(chance.randint(1, 3)):
        node: Any = content
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.7:
                node = node[key]
                continue
            if chance.random() < 0.25:
                del node[key]
            else:
                node[key] = chance.choice(_VALUES)
            break
    return json.dumps(content).encode()
