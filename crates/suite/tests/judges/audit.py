"""Judges renderings of the audit log with other people's models: `audit.py FORMAT FILE`, one rendering a line.

ocsf: PyPI pydantic-ocsf for the whole event of its class, PyPI py-ocsf-models for the event's base and its objects.
fhir: PyPI fhir.resources, R4B, whose AuditEvent is R4's.
"""

import json
import sys


def ocsf(line):
    from ocsf.v1_7_0.events import ApiActivity, Authentication, DatastoreActivity
    from py_ocsf_models.events.base_event import BaseEvent
    from py_ocsf_models.objects.api import API
    from py_ocsf_models.objects.metadata import Metadata
    from py_ocsf_models.objects.organization import Organization
    from py_ocsf_models.objects.policy import Policy
    from py_ocsf_models.objects.resource_details import ResourceDetails
    from py_ocsf_models.objects.service import Service
    from py_ocsf_models.objects.user import User

    event = json.loads(line)
    classes = {6003: ApiActivity, 6005: DatastoreActivity, 3002: Authentication}
    model = classes[event["class_uid"]].model_validate(event)
    # Models keep what they do not know: anything kept so is no attribute of the schema.
    strange = set(model.model_extra or {})
    assert not strange, f"no attributes of OCSF: {strange}"
    BaseEvent.model_validate(event)
    Metadata.model_validate(event["metadata"])
    User.model_validate(event["actor"]["user"])
    Organization.model_validate(event["actor"]["user"]["org"])
    for authorization in event["actor"].get("authorizations", []):
        Policy.model_validate(authorization["policy"])
    if "api" in event:
        API.model_validate(event["api"])
    if "service" in event:
        Service.model_validate(event["service"])
    for resource in event.get("resources", []):
        ResourceDetails.model_validate(resource)


def fhir(line):
    from fhir.resources.R4B.auditevent import AuditEvent

    AuditEvent.model_validate_json(line)


def main():
    judge = {"ocsf": ocsf, "fhir": fhir}[sys.argv[1]]
    with open(sys.argv[2], encoding="utf-8") as lines:
        count = 0
        for count, line in enumerate(lines, 1):
            try:
                judge(line)
            except Exception as error:
                print(f"line {count}: {error}", file=sys.stderr)
                return 1
    print(count)
    return 0


sys.exit(main())
