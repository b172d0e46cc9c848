"""What a Module means on one kernel: the entry of NodeModulesState.spec.modules."""

import hashlib
from dataclasses import replace

from kmm_common.api.module import ModprobeArgs as ArgsSpec
from kmm_common.api.module import Module, ModuleLoaderContainer
from kmm_common.api.names import PULL_SECRET_ANNOTATION, RETRY_ANNOTATION, Reason
from kmm_common.desired import DesiredModule, Modprobe, ModprobeArgs, config_hash
from kmm_common.errors import TerminalError
from kmm_common.oci.errors import InvalidReferenceError
from kmm_common.oci.reference import parse_reference
from kmm_cp.policy.kernel import variables
from kmm_cp.policy.mapping import Match
from kmm_cp.policy.merge import Merged, merged
from kmm_cp.policy.templates import substituted

DEFAULT_PULL_POLICY = "IfNotPresent"
_TOKEN_LENGTH = 16


def entry_for(module: Module, match: Match, kernel_version: str) -> DesiredModule:
    """Return the entry for a kernel, given as uname -r prints it; with_digest() completes it.

    Raises TerminalError, which names the field, where the image's name does not work out.
    """
    container, secret, found = match.container, module.spec.image_repo_secret, merged(match)
    return DesiredModule(
        namespace=module.metadata.namespace,
        name=module.metadata.name,
        uid=module.metadata.uid,
        kernel_version=kernel_version,
        image=_image(module, found, kernel_version),
        image_pull_policy=container.image_pull_policy or DEFAULT_PULL_POLICY,
        pull_secret=secret.name if secret else "",
        registry_tls=found.registry_tls,
        in_tree_modules_to_remove=found.in_tree_modules_to_remove,
        modprobe=_modprobe(container),
        version=container.version,
        retry=_retry(module),
    )


class Entries:
    """The entries of one Module, each made once: nodes are many, kernels are few."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._made: dict[str, DesiredModule | TerminalError] = {}

    def at(self, match: Match, kernel_version: str) -> DesiredModule | TerminalError:
        """Return the entry for a kernel and its mapping, or why there is none."""
        if kernel_version not in self._made:
            self._made[kernel_version] = self._make(match, kernel_version)
        return self._made[kernel_version]

    def _make(self, match: Match, kernel_version: str) -> DesiredModule | TerminalError:
        try:
            return entry_for(self._module, match, kernel_version)
        except TerminalError as error:
            return error


def with_digest(entry: DesiredModule, digest: str) -> DesiredModule:
    """Return the entry for an image's digest, or for none (""), with its hash."""
    completed = replace(entry, image_digest=digest)
    return replace(completed, config_hash=config_hash(completed))


def _image(module: Module, found: Merged, kernel_version: str) -> str:
    names = {"MOD_NAME": module.metadata.name, "MOD_NAMESPACE": module.metadata.namespace}
    known = {**variables(kernel_version), **names}
    image = substituted(found.image, known, field=found.image_field)
    try:
        parse_reference(image)
    except InvalidReferenceError as error:
        message = f"{found.image_field}: for kernel {kernel_version}: {error}"
        raise TerminalError(message, reason=Reason.INVALID_TEMPLATE) from error
    return image


def _retry(module: Module) -> str:
    """Return a token of the annotations that ask for a retry, whose values may be of any length."""
    annotations = module.metadata.annotations
    asked = [annotations.get(key) for key in (RETRY_ANNOTATION, PULL_SECRET_ANNOTATION)]
    given = [value for value in asked if value is not None]
    if not given:
        return ""
    # A version alone is not to be taken for an asked retry of that value.
    text = given[0] if asked[1] is None else f"{asked[0] or ''}\0{asked[1]}"
    return hashlib.sha256(text.encode()).hexdigest()[:_TOKEN_LENGTH]


def _modprobe(container: ModuleLoaderContainer) -> Modprobe:
    spec = container.modprobe
    return Modprobe(
        module_name=spec.module_name,
        dir_name=spec.dir_name,
        parameters=spec.parameters,
        args=_args(spec.args),
        raw_args=_args(spec.raw_args),
        firmware_path=spec.firmware_path,
        modules_loading_order=spec.modules_loading_order,
    )


def _args(spec: ArgsSpec | None) -> ModprobeArgs:
    return ModprobeArgs(load=spec.load, unload=spec.unload) if spec else ModprobeArgs()
