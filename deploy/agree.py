"""Whether what deploy/ says in two places agrees: account and times to stop.

    agree.py Dockerfile deploy/fargate.yaml deploy/kubernetes.yaml

No schema can know that a drain has to end before the scheduler kills, or whose account the image has.
"""

import re
import sys
from pathlib import Path

import yaml

from keys import AnyTag

# The most that Fargate waits between SIGTERM and SIGKILL, in seconds.
FARGATE_STOPS = 120
UNITS = {"s": 1, "m": 60, "h": 3600}


def main(dockerfile, fargate, kubernetes):
    user = re.search(r"^USER (\S+)$", Path(dockerfile).read_text(), re.MULTILINE)[1]

    template = yaml.load(Path(fargate).read_text(), Loader=AnyTag)
    task = template["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"][0]
    environment = {entry["Name"]: entry["Value"] for entry in task["Environment"]}
    drain, stop = seconds(environment["DRIPLINE__SERVER__DRAIN_TIMEOUT"]), task["StopTimeout"]
    expect(f"{fargate}: User", task["User"], user)
    expect(f"{fargate}: StopTimeout of {stop} s is within {FARGATE_STOPS} s", stop <= FARGATE_STOPS)
    expect(f"{fargate}: a drain of {drain} s ends before {stop} s", drain < stop)

    manifests = {one["kind"]: one for one in yaml.safe_load_all(Path(kubernetes).read_text())}
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = seconds(manifests["ConfigMap"]["data"]["DRIPLINE__SERVER__DRAIN_TIMEOUT"])
    grace, context = pod["terminationGracePeriodSeconds"], pod["securityContext"]
    account = f"{context['runAsUser']}:{context['runAsGroup']}"
    expect(f"{kubernetes}: runAsUser and runAsGroup", account, user)
    expect(f"{kubernetes}: {before} s and a drain of {drain} s end before {grace} s", before + drain < grace)


def seconds(text):
    """A time with one unit, as these files write it."""
    number, unit = re.fullmatch(r"(\d+)([smh])", text).groups()
    return int(number) * UNITS[unit]


def expect(what, found, expected=True):
    if found != expected:
        sys.exit(f"{what}: expected {expected}, found {found}")
    print(what if found is True else f"{what}: {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
