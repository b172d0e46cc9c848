"""Validation rules of the Module CRD in CEL, with upstream's texts where upstream has the rule.

A rule stands at the schema it looks at; the API server puts the field's path before its text.
Invalid regular expressions are refused by evaluating them: CEL's matches() is RE2, as upstream's,
and the server's own error text says what is wrong.

What a Module's name or a namespace's deletion breaks is in manifests/base/admission.yaml.
"""

from kmm_common.api.cel import each, each_at, excused, on_change, rule, telling

_TOLERATION = "failed to validate Module's tolerations: Toleration[{i}] "
_DRA = "failed to validate DRA: "
_MAPPINGS = "failed to validate kernel mappings: "
_MODPROBE = "failed to validate modprobe: "


def _set(field: str, of: str = "self") -> str:
    return f"(has({of}.{field}) && {of}.{field} != '')"


def _some(field: str, of: str = "self") -> str:
    return f"(has({of}.{field}) && size({of}.{field}) > 0)"


TOLERATIONS = [
    each(
        "self",
        f"{_set('key', of='each')} || (has(each.operator) && each.operator == 'Exists')",
        _TOLERATION + "operator must be 'Exists' when key is empty",
    ),
    each(
        "self",
        "!has(each.tolerationSeconds) || (has(each.effect) && each.effect == 'NoExecute')",
        _TOLERATION + "effect must be 'NoExecute' when tolerationSeconds is set",
    ),
    each(
        "self",
        f"!has(each.operator) || each.operator != 'Exists' || !{_set('value', of='each')}",
        _TOLERATION + "value must be empty when operator is 'Exists'",
    ),
    each(
        "self",
        "!has(each.operator) || each.operator in ['', 'Equal', 'Exists']",
        _TOLERATION + "invalid operator '{X}', allowed values are ['Equal', 'Exists']",
        X="each.operator",
    ),
    each(
        "self",
        "!has(each.effect) || each.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute']",
        _TOLERATION + "invalid effect '{X}', allowed values are "
        "['NoSchedule', 'PreferNoSchedule', 'NoExecute']",
        X="each.effect",
    ),
]

SPEC = [
    excused(
        rule(
            "!(has(self.dra) && has(self.devicePlugin))",
            "spec.dra and spec.devicePlugin are mutually exclusive",
        ),
        "has(oldSelf.value().dra) && has(oldSelf.value().devicePlugin)",
    )
]

_PATH_ESCAPES = r"matches('(^|/)\\.\\.(/|$)')"

# Upstream looks at the path as filepath.Clean writes it. Here `..` is refused wherever it stands,
# as Kubernetes refuses it in the hostPath of every Pod.
DEVICE_PLUGIN_VOLUMES = [
    each_at(
        32,
        r"!has(self[i].hostPath) || (self[i].hostPath.path.matches("
        r"'^/+(\\./+)*(dev|sys|var|opt|run)(/.*)?$')"
        f" && !self[i].hostPath.path.{_PATH_ESCAPES})",
        'failed to validate device plugin volumes: spec.devicePlugin.volumes[{i}]: hostPath "{p}" '
        "is not allowed; only /dev, /sys, /var, /opt and /run paths are permitted",
        p="self[i].hostPath.path",
    )
]

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"matches(r'^{_LABEL}(\.{_LABEL})*$')"
_NO_SUBDOMAIN = (
    "is not a valid DNS subdomain: a lowercase RFC 1123 subdomain must consist of lower case "
    "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'example.com', regex used for validation is "
    rf"'{_LABEL}(\.{_LABEL})*')"
)

DRIVER_NAME = [
    rule("self != ''", f"{_DRA}spec.dra.driverName is required"),
    telling(
        f"self == '' || self.{_SUBDOMAIN}",
        _DRA + 'spec.dra.driverName "{x}" ' + _NO_SUBDOMAIN,
        x="self",
    ),
]

DEVICE_CLASSES = [
    each_at(32, "self[i].name != ''", _DRA + "spec.dra.deviceClasses[{i}].name is required"),
    each_at(
        32,
        f"self[i].name == '' || self[i].name.{_SUBDOMAIN}",
        _DRA + 'spec.dra.deviceClasses[{i}].name "{x}" ' + _NO_SUBDOMAIN,
        x="self[i].name",
    ),
    each_at(
        32,
        f"!{list(range(32))}.exists(j, j < i && self[j].name == self[i].name)",
        _DRA + 'spec.dra.deviceClasses[{i}].name "{x}" is a duplicate',
        x="self[i].name",
    ),
]

_IMAGE = (
    f"!{_set('containerImage')} || "
    "self.containerImage.contains(':') || self.containerImage.contains('@')"
)
_IMAGE_RULE = telling(
    _IMAGE,
    _MAPPINGS + "failed to validate image format: container image must explicitely set a tag or "
    "digest; got: {X}",
    X="self.containerImage",
)
# As upstream's, a list that is given but empty counts.
_IN_TREE = f"!({_set('inTreeModuleToRemove')} && has(self.inTreeModulesToRemove))"

_IN_DIR_NAME = (
    "startsWith(self.modprobe.dirName + (self.modprobe.dirName.endsWith('/') ? '' : '/'))"
)

CONTAINER = [
    on_change(
        rule(
            _IN_TREE,
            f"{_MAPPINGS}only one of the Container's fields: InTreeModulesToRemove or "
            "InTreeModuleToRemove can be defined",
        ),
        "inTreeModuleToRemove",
        "inTreeModulesToRemove",
    ),
    on_change(_IMAGE_RULE, "containerImage"),
    on_change(
        each(
            "self.kernelMappings",
            _set("containerImage", of="each"),
            _MAPPINGS
            + "missing spec.moduleLoader.container.kernelMappings[{i}].containerImage: name "
            "an image there, or for all mappings in spec.moduleLoader.container.containerImage",
            unless=_set("containerImage"),
        ),
        "containerImage",
        "kernelMappings",
    ),
    on_change(
        rule(
            f"!({_set('inTreeModuleToRemove')} && self.kernelMappings.exists(each, "
            "has(each.inTreeModulesToRemove))) && !(has(self.inTreeModulesToRemove) && "
            f"self.kernelMappings.exists(each, {_set('inTreeModuleToRemove', of='each')}))",
            f"{_MAPPINGS}only one type if field (InTreeModuleToRemove or InTreeModulesToRemove) "
            "can be defined in KenrelMapping or Container",
        ),
        "inTreeModuleToRemove",
        "inTreeModulesToRemove",
        "kernelMappings",
    ),
    on_change(
        rule(
            f"!has(self.sign) || {_some('filesToSign', of='self.sign')}",
            "global Sign: filesToSign is required when Sign is set",
        ),
        "sign",
    ),
    on_change(
        each(
            "self.sign.filesToSign",
            f"each.{_IN_DIR_NAME}",
            'global Sign: filesToSign["{f}"] must be under dirName "{d}"',
            unless="!has(self.sign) || !has(self.sign.filesToSign)",
            f="each",
            d="self.modprobe.dirName",
        ),
        "sign",
        "modprobe.dirName",
    ),
    on_change(
        each(
            "self.kernelMappings",
            f"!has(each.sign) || {_some('filesToSign', of='each.sign')}",
            "kernelMappings[{i}].Sign: filesToSign is required when Sign is set",
        ),
        "kernelMappings",
    ),
    on_change(
        each(
            "self.kernelMappings",
            "!has(each.sign) || !has(each.sign.filesToSign) || "
            f"each.sign.filesToSign.all(file, file.{_IN_DIR_NAME})",
            'kernelMappings[{i}].Sign: filesToSign["{f}"] must be under dirName "{d}"',
            f=f"each.sign.filesToSign.filter(file, !file.{_IN_DIR_NAME})[0]",
            d="self.modprobe.dirName",
        ),
        "kernelMappings",
        "modprobe.dirName",
    ),
    rule(
        f"{_set('version')} == {_set('version', of='oldSelf')}",
        "cannot update to or from an empty version; please delete the Module and create it again",
    ),
]

MAPPINGS = [
    each(
        "self",
        f"!({_set('literal', of='each')} && {_set('regexp', of='each')})",
        _MAPPINGS + "regexp and literal are mutually exclusive properties at kernelMappings[{i}]",
    ),
    each(
        "self",
        f"{_set('literal', of='each')} || {_set('regexp', of='each')}",
        _MAPPINGS + "regexp or literal must be set at kernelMappings[{i}]",
    ),
    # Never false, but an error if matches() cannot compile it; and errors the API server does not
    # let pass by itself where nothing is changed.
    excused(
        rule(
            "self.all(each, !has(each.regexp) || (''.matches(each.regexp) ? true : true))",
            f"{_MAPPINGS}invalid regexp",
        ),
        "oldSelf.value() == self",
    ),
]

MAPPING = [
    _IMAGE_RULE,
    rule(
        _IN_TREE,
        f"{_MAPPINGS}only one of the KernelMapping fields: InTreeModulesToRemove or "
        "InTreeModuleToRemove can be defined",
    ),
]

_RAW_LOAD = f"(has(self.rawArgs) && {_some('load', of='self.rawArgs')})"
_RAW_UNLOAD = f"(has(self.rawArgs) && {_some('unload', of='self.rawArgs')})"
_NO_ORDER = "!has(self.modulesLoadingOrder)"

MODPROBE = [
    on_change(
        rule(
            f"!({_set('moduleName')} && ({_RAW_LOAD} || {_RAW_UNLOAD}))",
            f"{_MODPROBE}rawArgs cannot be set when moduleName is set",
        ),
        "moduleName",
        "rawArgs",
    ),
    on_change(
        rule(
            f"{_set('moduleName')} || ({_RAW_LOAD} && {_RAW_UNLOAD})",
            f"{_MODPROBE}load and unload rawArgs must be set when moduleName is unset",
        ),
        "moduleName",
        "rawArgs",
    ),
    on_change(
        rule(
            f"{_NO_ORDER} || size(self.modulesLoadingOrder) > 1",
            f"{_MODPROBE}if a loading order is defined, at least two values must be defined",
        ),
        "modulesLoadingOrder",
    ),
    on_change(
        rule(
            f"{_NO_ORDER} || {_set('moduleName')}",
            f"{_MODPROBE}if a loading order is defined, moduleName must be set",
        ),
        "modulesLoadingOrder",
        "moduleName",
    ),
    on_change(
        rule(
            f"{_NO_ORDER} || size(self.modulesLoadingOrder) == 0 || !{_set('moduleName')} || "
            "self.modulesLoadingOrder[0] == self.moduleName",
            f"{_MODPROBE}if a loading order is defined, the first element must be moduleName",
        ),
        "modulesLoadingOrder",
        "moduleName",
    ),
    on_change(
        each(
            "self.modulesLoadingOrder",
            "self.modulesLoadingOrder.exists_one(other, other == each)",
            _MODPROBE + '"{x}": duplicate value in the loading order list',
            unless=_NO_ORDER,
            x="each",
        ),
        "modulesLoadingOrder",
    ),
    on_change(
        rule(
            "!has(self.dirName) || "
            f"(self.dirName.startsWith('/') && !self.dirName.{_PATH_ESCAPES})",
            f"{_MODPROBE}dirName must be an absolute path without '..'",
        ),
        "dirName",
    ),
    on_change(
        rule(
            f"!has(self.firmwarePath) || !self.firmwarePath.{_PATH_ESCAPES}",
            f"{_MODPROBE}firmwarePath must not contain '..'",
        ),
        "firmwarePath",
    ),
]
