"""Validation rules of the Module CRD in CEL, with upstream's texts where upstream has the rule.

A rule stands at the schema it looks at; the API server adds the field's path to its message.
Invalid regular expressions are refused by evaluating them: CEL's matches() is RE2, as upstream's,
and the server's own error text says what is wrong.
"""

from typing import Any

Rule = dict[str, Any]

_MAPPINGS = "failed to validate kernel mappings: "
_MODPROBE = "failed to validate modprobe: "
_TOLERATIONS = "failed to validate Module's tolerations: "


def rule(expression: str, message: str) -> Rule:
    return {"rule": expression, "message": message}


def telling(expression: str, message_expression: str, fallback: str) -> Rule:
    """Return a rule whose message is computed; `fallback` stands if that fails."""
    return {"rule": expression, "messageExpression": message_expression, "message": fallback}


def _set(field: str) -> str:
    return f"has(self.{field}) && self.{field} != ''"


def _some(field: str) -> str:
    return f"has(self.{field}) && size(self.{field}) > 0"


_IN_TREE = f"!(({_set('inTreeModuleToRemove')}) && ({_some('inTreeModulesToRemove')}))"
_PATH_ESCAPES = r"matches('(^|/)\\.\\.(/|$)')"
_IMAGE = "!has(self.containerImage) || self.containerImage == '' || " + (
    "self.containerImage.contains(':') || self.containerImage.contains('@')"
)
_IMAGE_TEXT = (
    "failed to validate image format: container image must explicitely set a tag or digest; got: "
)
_ANY_IN_TREE_HERE = f"({_set('inTreeModuleToRemove')}) || ({_some('inTreeModulesToRemove')})"
_IMAGE_RULE = telling(
    _IMAGE,
    f"'{_MAPPINGS}{_IMAGE_TEXT}' + self.containerImage",
    f"{_MAPPINGS}{_IMAGE_TEXT}an image without either",
)

TOLERATION = [
    rule(
        "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
        f"{_TOLERATIONS}operator must be 'Exists' when key is empty",
    ),
    rule(
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        f"{_TOLERATIONS}effect must be 'NoExecute' when tolerationSeconds is set",
    ),
    rule(
        "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
        f"{_TOLERATIONS}value must be empty when operator is 'Exists'",
    ),
    telling(
        "!has(self.operator) || self.operator in ['', 'Equal', 'Exists']",
        f'"{_TOLERATIONS}invalid operator \'" + self.operator + '
        "\"', allowed values are ['Equal', 'Exists']\"",
        f"{_TOLERATIONS}invalid operator, allowed values are ['Equal', 'Exists']",
    ),
    telling(
        "!has(self.effect) || self.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute']",
        f'"{_TOLERATIONS}invalid effect \'" + self.effect + '
        "\"', allowed values are ['NoSchedule', 'PreferNoSchedule', 'NoExecute']\"",
        f"{_TOLERATIONS}invalid effect, allowed values are "
        "['NoSchedule', 'PreferNoSchedule', 'NoExecute']",
    ),
]

VOLUME = [
    telling(
        "!has(self.hostPath) || (self.hostPath.path.matches('^/(dev|sys|var|opt|run)(/.*)?$')"
        f" && !self.hostPath.path.{_PATH_ESCAPES})",
        "'failed to validate device plugin volumes: hostPath \"' + self.hostPath.path + "
        "'\" is not allowed; only /dev, /sys, /var, /opt and /run paths are permitted'",
        "failed to validate device plugin volumes: hostPath is not allowed; "
        "only /dev, /sys, /var, /opt and /run paths are permitted",
    )
]

SPEC = [
    rule(
        "!(has(self.dra) && has(self.devicePlugin))",
        "spec.dra and spec.devicePlugin are mutually exclusive",
    )
]

CONTAINER = [
    rule(
        _IN_TREE,
        f"{_MAPPINGS}only one of the Container's fields: InTreeModulesToRemove or "
        "InTreeModuleToRemove can be defined",
    ),
    _IMAGE_RULE,
    rule(
        f"({_set('containerImage')}) || self.kernelMappings.all(mapping, "
        "has(mapping.containerImage) && mapping.containerImage != '')",
        f"{_MAPPINGS}missing spec.moduleLoader.container.kernelMappings[].containerImage: name an "
        "image there, or for all mappings in spec.moduleLoader.container.containerImage",
    ),
    rule(
        f"!(({_set('inTreeModuleToRemove')}) && self.kernelMappings.exists(mapping, "
        "has(mapping.inTreeModulesToRemove) && size(mapping.inTreeModulesToRemove) > 0)) && "
        f"!(({_some('inTreeModulesToRemove')}) && self.kernelMappings.exists(mapping, "
        "has(mapping.inTreeModuleToRemove) && mapping.inTreeModuleToRemove != ''))",
        f"{_MAPPINGS}only one type if field (InTreeModuleToRemove or InTreeModulesToRemove) can "
        "be defined in KenrelMapping or Container",
    ),
    rule(
        "(has(self.version) && self.version != '') == "
        "(has(oldSelf.version) && oldSelf.version != '')",
        "cannot update to or from an empty version; please delete the Module and create it again",
    ),
]

MAPPING = [
    rule(
        f"!(({_set('literal')}) && ({_set('regexp')}))",
        f"{_MAPPINGS}regexp and literal are mutually exclusive properties at kernelMappings",
    ),
    rule(
        f"({_set('literal')}) || ({_set('regexp')})",
        f"{_MAPPINGS}regexp or literal must be set at kernelMappings",
    ),
    rule(
        "!has(self.regexp) || (''.matches(self.regexp) ? true : true)",
        f"{_MAPPINGS}invalid regexp",
    ),
    _IMAGE_RULE,
    rule(
        _IN_TREE,
        f"{_MAPPINGS}only one of the KernelMapping fields: InTreeModulesToRemove or "
        "InTreeModuleToRemove can be defined",
    ),
]

_RAW_ARGS = "has(self.rawArgs)"
_ORDER = "has(self.modulesLoadingOrder) && size(self.modulesLoadingOrder) > 0"

MODPROBE = [
    rule(
        f"!({_RAW_ARGS} && ({_set('moduleName')}))",
        f"{_MODPROBE}rawArgs cannot be set when moduleName is set",
    ),
    rule(
        f"({_set('moduleName')}) || ({_RAW_ARGS} && has(self.rawArgs.load) && "
        "size(self.rawArgs.load) > 0 && has(self.rawArgs.unload) && size(self.rawArgs.unload) > 0)",
        f"{_MODPROBE}load and unload rawArgs must be set when moduleName is unset",
    ),
    rule(
        f"!({_ORDER}) || size(self.modulesLoadingOrder) > 1",
        f"{_MODPROBE}if a loading order is defined, at least two values must be defined",
    ),
    rule(
        f"!({_ORDER}) || ({_set('moduleName')})",
        f"{_MODPROBE}if a loading order is defined, moduleName must be set",
    ),
    rule(
        f"!({_ORDER}) || !({_set('moduleName')}) || self.modulesLoadingOrder[0] == self.moduleName",
        f"{_MODPROBE}if a loading order is defined, the first element must be moduleName",
    ),
    rule(
        f"!({_ORDER}) || self.modulesLoadingOrder.all(each, "
        "self.modulesLoadingOrder.exists_one(other, other == each))",
        f"{_MODPROBE}duplicate value in the loading order list",
    ),
    rule(
        f"!has(self.dirName) || (self.dirName.startsWith('/') && !self.dirName.{_PATH_ESCAPES})",
        f"{_MODPROBE}dirName must be an absolute path without '..'",
    ),
    rule(
        f"!has(self.firmwarePath) || !self.firmwarePath.{_PATH_ESCAPES}",
        f"{_MODPROBE}firmwarePath must not contain '..'",
    ),
]
