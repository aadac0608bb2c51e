"""Whether Terraform's tests notice: each thing that matters is broken in a copy, and the assertion that guards it must fail.

A wave of mutations of one module is made in one copy and tested once; each must bring down its own assertion, and nothing else may fail.
Two that would hide one another are in different waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
from support import terraform
from support.terraform import Copy, Verdict


@dataclass(frozen=True)
class Mutation:
    """A change that must not go unnoticed: in `file` of the module, `pattern` (once in it) becomes `replacement`."""

    name: str
    module: str
    file: str
    pattern: str
    replacement: str
    message: str  # of the assertion that must fail
    wave: int = 0


MONITORING = "modules/monitoring"
EDGE = "modules/edge"

MUTATIONS = [
    Mutation(
        "alert reaches nobody",
        MONITORING,
        "alerts.tf",
        r'(: rounds are abandoned"\n(?:.*\n){2} +notification_channels += )var\.notification_channels',
        r"\1[]",
        "each alert must reach the notification channels",
    ),
    Mutation(
        "abandoned rounds raise no alert",
        MONITORING,
        "alerts.tf",
        r'"> \$\{var\.thresholds\.abandon_rate\}"',
        '"> 99"',
        "the alert on abandoned rounds must compare with the threshold",
    ),
    Mutation(
        "late clients raise an alert",
        MONITORING,
        "main.tf",
        r'no_refusal = \["round_closed", ',
        "no_refusal = [",
        "clients that come too late are no reason for an alert",
    ),
    Mutation(
        "old updates go unnoticed for a day",
        MONITORING,
        "variables.tf",
        r"update_age_seconds  = optional\(number, 3600\)",
        "update_age_seconds = optional(number, 86400)",
        "updates older than an hour must raise an alert",
    ),
    Mutation(
        "budget watches every project",
        MONITORING,
        "alerts.tf",
        r'projects +\= \["projects/\$\{var\.project_id\}"\]',
        "projects = []",
        "the budget must watch this project alone",
    ),
    Mutation(
        "plain HTTP is answered",
        EDGE,
        "main.tf",
        r'port_range( +)= "443"',
        r'port_range\1= "80"',
        "the load balancer must listen on port 443 alone",
    ),
    Mutation(
        "old TLS is spoken",
        EDGE,
        "main.tf",
        r'"TLS_1_2"',
        '"TLS_1_0"',
        "TLS below 1.2 must be refused",
    ),
    Mutation(
        "policy stands before nothing",
        EDGE,
        "main.tf",
        r"security_policy +\= google_compute_region_security_policy\.edge\.id",
        "security_policy = null",
        "the policy must stand before client_api",
    ),
    Mutation(
        "limit is for all addresses together",
        EDGE,
        "main.tf",
        r'enforce_on_key = "IP"',
        'enforce_on_key = "ALL"',
        "each address must be limited, and told so with 429",
    ),
    Mutation(
        "default rule lets all pass",
        EDGE,
        "main.tf",
        r'"deny\(403\)"',
        '"allow"',
        "the default rule must refuse what came past the limit",
    ),
]


def waves(mutations):
    return [
        pytest.param(each, id=each.name, marks=pytest.mark.xdist_group(f"terraform mutated {each.module} {each.wave}"))
        for each in mutations
    ]


@pytest.fixture(scope="session")
def mutated(tmp_path_factory):
    terraform.require()

    @cache
    def verdict(module: str, wave: int) -> Verdict:
        copy = Copy(tmp_path_factory.mktemp("mutated"))
        for each in MUTATIONS:
            if (each.module, each.wave) == (module, wave):
                copy.change(f"{module}/{each.file}", each.pattern, each.replacement)
        return copy.test(module)

    return verdict


@pytest.mark.parametrize("mutation", waves(MUTATIONS))
def test_notices(mutated, mutation):
    verdict = mutated(mutation.module, mutation.wave)
    together = [each for each in MUTATIONS if (each.module, each.wave) == (mutation.module, mutation.wave)]
    assert mutation.message in verdict.assertions
    assert verdict.assertions == {each.message for each in together}
    assert not verdict.errors
