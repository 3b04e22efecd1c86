"""The kinds of Kubernetes' batch group, with their defaults and rules."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from controllers.apps.types import LabelSelector
from controllers.batch.indexes import last_index, parse_indexes
from controllers.batch.schedule import Schedule, load_zone
from controllers.core.defaults import default_pod_spec
from controllers.core.types import Condition, ObjectReference, PodTemplate, validate_pod_spec
from informer import patch
from informer.errors import Invalid
from informer.names import label_problem
from informer.objects import Model
from informer.resources import Resource
from informer.scale import MOST_REPLICAS
from informer.selectors import Selector

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
CONTROLLER_UID_LABEL = "batch.kubernetes.io/controller-uid"
# The same before Kubernetes 1.27; still written.
LEGACY_JOB_NAME_LABEL = "job-name"
LEGACY_CONTROLLER_UID_LABEL = "controller-uid"

NO_LIMIT = 2**31 - 1  # backoffLimit where each index has a limit of its own
MOST_INDEXES = 100_000  # Kubernetes': what a status has to be able to tell
MOST_RULES = 20
MOST_EXIT_CODES = 255
LONGEST_CRON_JOB_NAME = 52  # 11 more for the time in the names of its Jobs

Raw = dict[str, Any]

# What may change in the template of a Job that waits to be resumed: where its pods go.
_SCHEDULING = ("nodeSelector", "tolerations", "affinity", "schedulingGates")
_FIXED = ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy", "managedBy")


class OnExitCodes(Model):
    """A failed container by its exit code; of any name, or of this one."""

    container_name: str | None
    operator: Literal["In", "NotIn"]
    values: list[int]


class OnPodCondition(Model):
    """A condition that the failed pod has."""

    type: str
    status: str = "True"


class PodFailureRule(Model):
    """What a failure of this sort means for the Job: by exit codes, or by any of some conditions."""

    action: Literal["FailJob", "FailIndex", "Ignore", "Count"]
    on_exit_codes: OnExitCodes | None
    on_pod_conditions: list[OnPodCondition]


class PodFailurePolicy(Model):
    """The first rule that a failed pod meets decides."""

    rules: list[PodFailureRule]


class SuccessRule(Model):
    """Which indexes, and how many of them, are enough."""

    succeeded_indexes: str | None
    succeeded_count: int | None


class SuccessPolicy(Model):
    """The first rule that is met makes the Job a success."""

    rules: list[SuccessRule]


class JobSpec(Model):
    """How many pods have to succeed, how many may run at once, and how much may fail. Times in seconds."""

    parallelism: int = 1
    completions: int | None
    completion_mode: Literal["NonIndexed", "Indexed"] = "NonIndexed"
    backoff_limit: int = 6
    backoff_limit_per_index: int | None
    max_failed_indexes: int | None
    active_deadline_seconds: int | None
    ttl_seconds_after_finished: int | None
    suspend: bool = False
    manual_selector: bool = False
    selector: LabelSelector | None
    pod_failure_policy: PodFailurePolicy | None
    success_policy: SuccessPolicy | None
    pod_replacement_policy: Literal["TerminatingOrFailed", "Failed"] = "TerminatingOrFailed"
    managed_by: str | None
    template: PodTemplate


class UncountedTerminatedPods(Model):
    """Uids of finished pods that are not yet in the numbers."""

    succeeded: list[str]
    failed: list[str]


class JobStatus(Model):
    """How far it is. Indexes as `1,3-5`."""

    conditions: list[Condition]
    start_time: datetime | None
    completion_time: datetime | None
    active: int = 0
    ready: int | None
    terminating: int | None
    succeeded: int = 0
    failed: int = 0
    completed_indexes: str = ""
    failed_indexes: str | None
    uncounted_terminated_pods: UncountedTerminatedPods


class Job(Resource, group="batch", version="v1"):
    """Pods that are run until enough of them have succeeded."""

    spec: JobSpec
    status: JobStatus

    def default(self) -> None:
        """As kube-apiserver; the selector and its labels too, once the object has its uid."""
        spec = self.raw.setdefault("spec", {})
        if spec.get("completions") is None and spec.get("parallelism") is None:
            spec["completions"] = 1
        spec.setdefault("parallelism", 1)
        spec.setdefault("completionMode", "NonIndexed")
        spec.setdefault("backoffLimit", 6 if spec.get("backoffLimitPerIndex") is None else NO_LIMIT)
        spec.setdefault("suspend", False)
        policy = spec.get("podFailurePolicy")
        spec.setdefault("podReplacementPolicy", "TerminatingOrFailed" if policy is None else "Failed")
        for rule in (policy or {}).get("rules") or ():
            for condition in rule.get("onPodConditions") or ():
                condition.setdefault("status", "True")
        template = spec.setdefault("template", {})
        if template.get("spec") is not None:
            default_pod_spec(template["spec"])
        metadata = self.raw["metadata"]
        labels = (template.get("metadata") or {}).get("labels")
        # Before it gets labels of its own by `_select`: an update must not add these to the Job.
        if labels and not metadata.get("labels") and CONTROLLER_UID_LABEL not in labels:
            metadata["labels"] = dict(labels)
        if not spec.get("manualSelector") and metadata.get("uid"):
            self._select(metadata["name"], metadata["uid"])

    def _select(self, name: str, uid: str) -> None:
        spec = self.raw["spec"]
        if spec["template"].get("metadata") is None:
            spec["template"]["metadata"] = {}
        described = spec["template"]["metadata"]
        labels = described["labels"] = dict(described.get("labels") or {})
        for label, value in (
            (LEGACY_CONTROLLER_UID_LABEL, uid),
            (CONTROLLER_UID_LABEL, uid),
            (LEGACY_JOB_NAME_LABEL, name),
            (JOB_NAME_LABEL, name),
        ):
            labels.setdefault(label, value)
        if not spec.get("selector"):
            spec["selector"] = {"matchLabels": {CONTROLLER_UID_LABEL: uid}}

    def validate(self) -> None:
        """What it counts can be counted, and its pods end."""
        validate_job_spec(self.raw["spec"], "spec", self.name)
        self._validate_selector()

    def _validate_selector(self) -> None:
        spec, uid = self.raw["spec"], self.metadata.uid
        raw = spec.get("selector")
        labels = (spec["template"].get("metadata") or {}).get("labels") or {}
        if spec.get("manualSelector"):
            if not raw:
                raise Invalid("spec.selector", "required with manualSelector")
        elif uid:
            wanted = {CONTROLLER_UID_LABEL: uid, JOB_NAME_LABEL: self.name}
            for label, value in wanted.items():
                if labels.get(label) != value:
                    where = f"spec.template.metadata.labels[{label}]"
                    raise Invalid(where, f'must be "{value}", got "{labels.get(label)}"')
            if raw not in ({"matchLabels": {CONTROLLER_UID_LABEL: uid}}, {"matchLabels": {"controller-uid": uid}}):
                raise Invalid("spec.selector", "is made by the server unless manualSelector is true")
        if raw and not Selector.of(raw).matches(labels):
            raise Invalid("spec.template.metadata.labels", f"the selector {Selector.of(raw)} does not select them")

    def validate_update(self, old: Job) -> None:
        """What it counts stays, and so do its pods."""
        spec, before = self.raw["spec"], old.raw["spec"]
        for field in _FIXED:
            if not patch.semantic_equal(spec.get(field), before.get(field)):
                raise Invalid(f"spec.{field}", "is immutable")
        if spec.get("completions") != before.get("completions"):
            elastic = spec["completionMode"] == "Indexed" and spec.get("completions") == spec["parallelism"]
            if not elastic or before.get("completions") is None:
                raise Invalid("spec.completions", "is immutable, but for an Indexed Job together with its parallelism")
        template, template_before = patch.copy(spec["template"]), patch.copy(before["template"])
        if before.get("suspend") and not (old.raw.get("status") or {}).get("startTime"):
            for each in (template, template_before):
                for field in _SCHEDULING:
                    each["spec"].pop(field, None)
                for field in ("labels", "annotations"):
                    (each.get("metadata") or {}).pop(field, None)
        if not patch.semantic_equal(template, template_before):
            raise Invalid("spec.template", "is immutable")


def validate_job_spec(spec: Raw, path: str, name: str) -> None:
    """Raise `Invalid` for a Job that could not be run. `path` is where the spec stands, `name` the Job's."""
    for field in (
        "parallelism",
        "completions",
        "backoffLimit",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ):
        value = spec.get(field) or 0
        if value < 0:
            raise Invalid(f"{path}.{field}", f"must not be negative, got {value}")
        if value > MOST_REPLICAS and field != "activeDeadlineSeconds":  # the one that is an int64
            raise Invalid(f"{path}.{field}", f"must not be more than {MOST_REPLICAS}, got {value}")
    template = spec.get("template") or {}
    validate_pod_spec(template.get("spec") or {}, f"{path}.template.spec")
    restart = template["spec"]["restartPolicy"]
    if restart not in ("Never", "OnFailure"):
        raise Invalid(f"{path}.template.spec.restartPolicy", f'expected "OnFailure" or "Never", got "{restart}"')
    managed_by = spec.get("managedBy")
    if managed_by is not None and ("/" not in managed_by or len(managed_by) > 63):
        raise Invalid(
            f"{path}.managedBy", f'expected a domain and a path, such as "example.com/name", not "{managed_by}"'
        )
    _validate_indexed(spec, path, name)
    _validate_failure_policy(spec, path)
    _validate_success_policy(spec, path)


def _validate_indexed(spec: Raw, path: str, name: str) -> None:
    completions = spec.get("completions")
    if spec.get("completionMode") != "Indexed":
        for field in ("backoffLimitPerIndex", "successPolicy"):
            if spec.get(field) is not None:
                raise Invalid(f"{path}.{field}", "needs completionMode Indexed")
    elif completions is None:
        raise Invalid(f"{path}.completions", "required when completionMode is Indexed")
    else:
        for field in ("completions", "parallelism", "maxFailedIndexes"):
            if (spec.get(field) or 0) > MOST_INDEXES:
                raise Invalid(f"{path}.{field}", f"must not be more than {MOST_INDEXES}")
        # The host of the last index has to have a name.
        if name and completions and (problem := label_problem(f"{name}-{completions - 1}")):
            raise Invalid("metadata.name", problem)
    most = spec.get("maxFailedIndexes")
    if most is not None:
        if spec.get("backoffLimitPerIndex") is None:
            raise Invalid(f"{path}.maxFailedIndexes", "needs backoffLimitPerIndex")
        if most > completions:
            raise Invalid(f"{path}.maxFailedIndexes", "must not be more than completions")


def _validate_failure_policy(spec: Raw, path: str) -> None:
    policy = spec.get("podFailurePolicy")
    if policy is None:
        return
    if spec["template"]["spec"]["restartPolicy"] != "Never":
        raise Invalid(f"{path}.podFailurePolicy", 'needs restartPolicy "Never" in the template')
    if spec.get("podReplacementPolicy", "Failed") != "Failed":
        raise Invalid(f"{path}.podReplacementPolicy", 'must be "Failed" with a podFailurePolicy')
    rules = policy.get("rules") or []
    if len(rules) > MOST_RULES:
        raise Invalid(f"{path}.podFailurePolicy.rules", f"at most {MOST_RULES}")
    containers = spec["template"]["spec"]
    names = {each["name"] for field in ("containers", "initContainers") for each in containers.get(field) or ()}
    for index, rule in enumerate(rules):
        where = f"{path}.podFailurePolicy.rules[{index}]"
        codes = rule.get("onExitCodes")
        if (codes is None) == (not rule.get("onPodConditions")):
            raise Invalid(where, "needs either onExitCodes or onPodConditions")
        if rule["action"] == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            raise Invalid(f"{where}.action", "FailIndex needs backoffLimitPerIndex")
        if codes is None:
            continue
        values = codes.get("values") or []
        if not values or len(values) > MOST_EXIT_CODES or values != sorted(set(values)):
            raise Invalid(f"{where}.onExitCodes.values", f"1 to {MOST_EXIT_CODES} different codes in order")
        if codes["operator"] == "In" and 0 in values:
            raise Invalid(f"{where}.onExitCodes.values", "must not have 0 with the operator In")
        if codes.get("containerName") is not None and codes["containerName"] not in names:
            raise Invalid(f"{where}.onExitCodes.containerName", f'there is no container "{codes["containerName"]}"')


def _validate_success_policy(spec: Raw, path: str) -> None:
    policy = spec.get("successPolicy")
    if policy is None:
        return
    rules = policy.get("rules") or []
    if not 1 <= len(rules) <= MOST_RULES:
        raise Invalid(f"{path}.successPolicy.rules", f"1 to {MOST_RULES} of them")
    for index, rule in enumerate(rules):
        where = f"{path}.successPolicy.rules[{index}]"
        indexes, count = rule.get("succeededIndexes"), rule.get("succeededCount")
        if indexes is None and count is None:
            raise Invalid(where, "needs succeededIndexes, succeededCount or both")
        among = spec["completions"]
        if indexes is not None:
            try:
                among = len(parse_indexes(indexes, spec["completions"]))
                last = last_index(indexes)
            except ValueError as error:
                raise Invalid(f"{where}.succeededIndexes", str(error)) from None
            if last >= spec["completions"]:
                raise Invalid(f"{where}.succeededIndexes", f"there is no index {last}")
        if count is not None and not 0 < count <= among:
            raise Invalid(f"{where}.succeededCount", f"expected 1 to {among}, got {count}")


# ---- CronJob --------------------------------------------------------------------------------------------------------


class JobTemplateMeta(Model):
    """The metadata of Jobs made of a template."""

    labels: dict[str, str]
    annotations: dict[str, str]


class JobTemplate(Model):
    """What the Jobs of a CronJob look like."""

    metadata: JobTemplateMeta
    spec: JobSpec


class CronJobSpec(Model):
    """When Jobs are made, and how many are kept."""

    schedule: str
    time_zone: str | None
    starting_deadline_seconds: int | None
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = "Allow"
    suspend: bool = False
    successful_jobs_history_limit: int = 3
    failed_jobs_history_limit: int = 1
    job_template: JobTemplate


class CronJobStatus(Model):
    """What it has made."""

    active: list[ObjectReference]
    last_schedule_time: datetime | None
    last_successful_time: datetime | None


class CronJob(Resource, group="batch", version="v1", short_names=("cj",)):
    """Jobs of one template, made on a schedule."""

    spec: CronJobSpec
    status: CronJobStatus

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("concurrencyPolicy", "Allow")
        spec.setdefault("suspend", False)
        spec.setdefault("successfulJobsHistoryLimit", 3)
        spec.setdefault("failedJobsHistoryLimit", 1)
        template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
        if template.get("spec") is not None:
            default_pod_spec(template["spec"])

    def validate(self) -> None:
        """Its schedule can be read, and its Jobs could be made."""
        spec = self.raw["spec"]
        if len(self.name) > LONGEST_CRON_JOB_NAME:
            raise Invalid("metadata.name", f"must not be longer than {LONGEST_CRON_JOB_NAME} characters")
        try:
            Schedule.parse(spec.get("schedule") or "")
        except ValueError as error:
            raise Invalid("spec.schedule", str(error)) from None
        if spec.get("timeZone") is not None:
            try:
                load_zone(spec["timeZone"])
            except ValueError as error:
                raise Invalid("spec.timeZone", str(error)) from None
        for field in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
            if (spec.get(field) or 0) < 0:
                raise Invalid(f"spec.{field}", f"must not be negative, got {spec[field]}")
        template = (spec.get("jobTemplate") or {}).get("spec") or {}
        if template.get("manualSelector"):
            raise Invalid("spec.jobTemplate.spec.manualSelector", "is not supported: its Jobs would share their pods")
        if template.get("selector"):
            raise Invalid("spec.jobTemplate.spec.selector", "is made by the server")
        validate_job_spec(template, "spec.jobTemplate.spec", "")
