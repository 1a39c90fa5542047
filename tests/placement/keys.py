"""Writes the table of a thousand keys: each in hexadecimal UTF-8, with its hash by the rule of the
service and by that of Python's buffered producer.

    target/foreign-clients/python/bin/python tests/placement/keys.py > tests/placement/keys.tsv

The hash is the Python client's own function. It hashes code points; told each byte as a character,
it hashes bytes, as the service does."""

import random

from azure.eventhub._buffered_producer._partition_resolver import generate_hash_code

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCXYZ0123456789-_/.:; !$%&()*+",
    "".join(map(chr, range(0x20))) + "\x7f",
    "äöüÄÖÜßéèêñçåøæŁőž",
    "日本語中文字符漢字仮名交じり文한국어",
    "😀🚀🎉👩👨👧🏽🇩🇪𝒳𐍈",
    "e\u0301a\u0308o\u0302n\u0303\u200d\u0327",
    "абвгдежзαβγδεאבגדابت",
    "\ufffd\uffff\U0010ffff\u0080\u07ff\u0800\ud7ff\ue000\U00010000",
]


def keys():
    seed = random.Random(20061)
    chosen = ["", "\0", " ", "7", "131", "7149583486996073602", "FWfAT", "$0cb", "Grün", "日本",
              "x" * 127, "ü" * 128, "😀" * 64, "a" * 128]
    # Every length in bytes up to forty, so every tail.
    chosen += ["".join(seed.choice(ALPHABETS[0]) for _ in range(length)) for length in range(1, 41)]
    # Every length in characters, of every kind of text.
    for alphabet in ALPHABETS:
        chosen += ["".join(seed.choice(alphabet) for _ in range(length)) for length in range(1, 41)]
    known = set()
    chosen = [key for key in chosen if not (key in known or known.add(key))]
    mixed = "".join(ALPHABETS)
    while len(chosen) < 1_000:
        key = "".join(seed.choice(mixed) for _ in range(seed.randrange(1, 60)))
        if key not in known:
            known.add(key)
            chosen.append(key)
    return chosen


for key in keys():
    encoded = key.encode("utf-8")
    as_bytes = generate_hash_code(encoded.decode("latin-1"))
    print(f"{encoded.hex()}\t{as_bytes}\t{generate_hash_code(key)}")
