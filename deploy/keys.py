"""Whether every configuration name that a file uses is one that conf/dripline.yaml has.

    keys.py conf/dripline.yaml FILE…

`DRIPLINE__S3__BUCKET` has to be the key s3.bucket there, live or as a comment (`# key:`), and so has
every key within a value that is a list or a map. Names without a key of their own (S3_BUCKET,
DRIPLINE_TLS_CERT_PEM) have to be spoken of there. It knows names only: what values may be is for
`dripline check` to say.
"""

import re
import sys
from pathlib import Path

import yaml

# A line that sets a key, or that would if it were no comment: (indent, "- ", key, value).
KEY_LINE = re.compile(r"( *)((?:- )?)([a-z][a-z0-9_]*):(?: +(.*))?")
OVERLAY = re.compile(r"\bDRIPLINE__[A-Z0-9_]+")
OTHER = re.compile(r"\bDRIPLINE_(?!_)[A-Z0-9_]+")
# In an env file, switched off or not.
ASSIGNED = re.compile(r"^#?([A-Z][A-Z0-9_]*)=", re.MULTILINE)


def main(conf, *files):
    text = Path(conf).read_text()
    known = known_keys(text)
    if "s3.bucket" not in known or "health.addr" not in known:
        sys.exit(f"{conf}: was not understood; neither a live key nor a commented one was found")
    wrong = []
    for file in files:
        names, keys = used(Path(file))
        if not names:
            wrong.append(f"{file}: names nothing of the configuration; is it still the right file?")
        for name in sorted(names):
            if name.startswith("DRIPLINE__"):
                keys.add((name, key_of(name)))
            elif not re.search(rf"\b{name}\b", text):
                wrong.append(f"{file}: {name}: {conf} does not speak of it")
        for name, key in sorted(keys):
            if key not in known:
                wrong.append(f"{file}: {name}: {conf} has no key {key}")
        print(f"{file}: {len(names)} names, {len(keys)} keys")
    if wrong:
        sys.exit("\n".join(wrong))


def key_of(name):
    """DRIPLINE__S3__BUCKET → s3.bucket, as src/config/env.rs has it."""
    return ".".join(name.removeprefix("DRIPLINE__").lower().split("__"))


# --- what there is


def known_keys(text):
    """Every key of a configuration file; those in comments count, lists add nothing to the path."""
    keys, above = set(), []
    for line in text.splitlines():
        match = KEY_LINE.fullmatch(re.sub(r"^( *)# ?", r"\1", line))
        if not match:
            continue
        indent = len(match[1]) + len(match[2])
        while above and above[-1][0] >= indent:
            above.pop()
        path = ".".join([*(key for _, key in above), match[3]])
        keys.add(path)
        above.append((indent, match[3]))
        keys |= keys_within(path, match[4] or "")
    return keys


def keys_within(path, value):
    """The keys of a list or map in YAML's flow style; none for any other value."""
    value = value.strip()
    if not value.startswith(("{", "[")):
        return set()
    try:
        return set(paths(path, yaml.safe_load(value)))
    except yaml.YAMLError as error:
        # As src/config/env.rs has it: `[::1]:9100` begins like a list and is none.
        if value.startswith(("{", "[{")) or value.endswith("]"):
            sys.exit(f"{path}: not valid YAML: {error}")
        return set()


def paths(path, tree):
    if isinstance(tree, list):
        for item in tree:
            yield from paths(path, item)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{path}.{key}"
            yield from paths(f"{path}.{key}", value)


# --- what is used


def used(file):
    """The names in a file, and (name, key) for what is within their values."""
    text = file.read_text()
    names = set(OVERLAY.findall(text)) | set(OTHER.findall(text))
    keys = set()
    if file.suffix == ".yaml":
        for document in yaml.load_all(text, Loader=AnyTag):
            for name, value in settings(document):
                keys |= {(name, key) for key in keys_within(key_of(name), value)}
    elif file.name.startswith(".env"):
        names |= set(ASSIGNED.findall(text))
    return names, keys


def settings(tree):
    """Each overlay's name and value: `{Name: …, Value: …}` of ECS, `{name: …, value: …}` of a pod, or
    an entry of a ConfigMap."""
    if isinstance(tree, list):
        for item in tree:
            yield from settings(item)
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key in ("Name", "name") and OVERLAY.fullmatch(str(value)):
            yield value, plain(tree.get("Value", tree.get("value")))
        elif OVERLAY.fullmatch(str(key)):
            yield key, plain(value)
        else:
            yield from settings(value)


def plain(value):
    """A value's text, with CloudFormation's substitutions (`!Sub [TEXT, MAP]`) left as they are."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""


class AnyTag(yaml.SafeLoader):
    """Reads CloudFormation's short forms, !Ref and the like, as what stands behind them."""


def behind(loader, _tag, node):
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_scalar(node)


AnyTag.add_multi_constructor("!", behind)

if __name__ == "__main__":
    main(*sys.argv[1:])
