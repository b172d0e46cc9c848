"""Module v1beta1: upstream KMM's API, field for field, with its newer fields as a superset."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from kmm_common.api.meta import (
    ApiModel,
    Condition,
    LocalObjectReference,
    ObjectMeta,
    Opaque,
    Toleration,
)
from kmm_common.desired import ModuleRef

PullPolicy = Literal["Always", "IfNotPresent", "Never"]

# A leading dash would be an option of modprobe.
KernelModuleName = Annotated[str, Field(max_length=64, pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$")]
Argument = Annotated[str, Field(max_length=1024)]
Arguments = Annotated[tuple[Argument, ...], Field(max_length=64)]
ImageName = Annotated[str, Field(max_length=1024)]
DirPath = Annotated[str, Field(max_length=256)]


class RegistryTls(ApiModel):
    """How the registry of an image is spoken to."""

    insecure: bool = False
    """Plain HTTP instead of HTTPS."""
    insecure_skip_tls_verify: Annotated[bool, Field(alias="insecureSkipTLSVerify")] = False
    """HTTPS, but any certificate is accepted."""


class BuildArg(ApiModel):
    """An argument of an image build."""

    name: Annotated[str, Field(max_length=256)]
    """Name of the argument."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Value of the argument."""


class KanikoParams(ApiModel):
    """Settings of the kaniko builder."""

    tag: Annotated[str, Field(max_length=128)] = ""
    """Tag of the kaniko image."""


class Build(ApiModel):
    """How a kmod image is built in the cluster."""

    build_args: Annotated[tuple[BuildArg, ...], Field(max_length=64)] = ()
    """Arguments for the build."""
    dockerfile_config_map: LocalObjectReference | None = None
    """ConfigMap that holds the Dockerfile under the key `dockerfile`."""
    base_image_registry_tls: Annotated[RegistryTls | None, Field(alias="baseImageRegistryTLS")] = (
        None
    )
    """How the registry of the base images is spoken to."""
    secrets: Annotated[tuple[LocalObjectReference, ...], Field(max_length=16)] = ()
    """Secrets mounted at /run/secrets/<name> during the build."""
    kaniko_params: KanikoParams | None = None
    """Settings of the kaniko builder."""
    selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that builds run on; the Module's selector if empty."""


class Sign(ApiModel):
    """How kernel modules are signed in the cluster."""

    unsigned_image: ImageName = ""
    """Image whose modules are signed; the built one if empty."""
    unsigned_image_registry_tls: Annotated[
        RegistryTls | None, Field(alias="unsignedImageRegistryTLS")
    ] = None
    """How the registry of the unsigned image is spoken to."""
    key_secret: LocalObjectReference | None = None
    """Secret that holds the private key under the key `key`."""
    cert_secret: LocalObjectReference | None = None
    """Secret that holds the certificate under the key `cert`."""
    files_to_sign: Annotated[tuple[DirPath, ...], Field(max_length=64)] = ()
    """Paths of the modules in the image, below modprobe.dirName; at least one."""


class KernelMapping(ApiModel):
    """What is used on a kernel that this matches."""

    literal: Annotated[str, Field(max_length=128)] = ""
    """The kernel version, exactly."""
    regexp: Annotated[str, Field(max_length=512)] = ""
    """RE2 expression that the kernel version must contain a match of."""
    container_image: ImageName = ""
    """Kmod image; variables such as ${KERNEL_FULL_VERSION} are replaced."""
    build: Build | None = None
    """Not acted on yet: how the image is built if it does not exist."""
    sign: Sign | None = None
    """Not acted on yet: how the image's modules are signed."""
    registry_tls: Annotated[RegistryTls | None, Field(alias="registryTLS")] = None
    """How the registry of the image is spoken to."""
    in_tree_module_to_remove: KernelModuleName = ""
    """Deprecated: one element of inTreeModulesToRemove."""
    in_tree_modules_to_remove: Annotated[tuple[KernelModuleName, ...], Field(max_length=32)] = ()
    """Modules of the kernel's own tree that are unloaded before the load. KMM does not bring them
    back: modprobe by hand or a reboot does."""


class ModprobeArgs(ApiModel):
    """Arguments for the two directions of modprobe."""

    load: Arguments = ()
    """For loading."""
    unload: Arguments = ()
    """For unloading."""


class ModprobeSpec(ApiModel):
    """How modprobe is called."""

    module_name: KernelModuleName = ""
    """Name of the kernel module; required unless rawArgs is set."""
    parameters: Arguments = ()
    """Module parameters, name=value. Files of modprobe.d are not read."""
    dir_name: DirPath = "/opt"
    """Directory of the image that holds lib/modules/<kernel>."""
    args: ModprobeArgs | None = None
    """Options put before the module's name."""
    raw_args: ModprobeArgs | None = None
    """The whole command line after modprobe; everything else is ignored."""
    firmware_path: DirPath = ""
    """Directory of the image whose content is copied to the host's firmware directory."""
    modules_loading_order: Annotated[tuple[KernelModuleName, ...], Field(max_length=32)] = ()
    """First the module itself, then what must be loaded before it, each before its left one."""


class ModuleLoaderContainer(ApiModel):
    """Which images hold the module, and how it is loaded."""

    container_image: ImageName = ""
    """Kmod image for mappings that name none."""
    image_pull_policy: PullPolicy | None = None
    """Always, IfNotPresent or Never; IfNotPresent if unset."""
    version: Annotated[str, Field(max_length=63)] = ""
    """Turns on ordered upgrades: a node gets this version when its version label says so."""
    build: Build | None = None
    """Not acted on yet: how images are built, for mappings that do not say."""
    sign: Sign | None = None
    """Not acted on yet: how modules are signed, for mappings that do not say."""
    registry_tls: Annotated[RegistryTls | None, Field(alias="registryTLS")] = None
    """How the registry is spoken to, for mappings that do not say."""
    in_tree_module_to_remove: KernelModuleName = ""
    """Deprecated: one element of inTreeModulesToRemove."""
    in_tree_modules_to_remove: Annotated[tuple[KernelModuleName, ...], Field(max_length=32)] = ()
    """Modules of the kernel's own tree that are unloaded before the load. KMM does not bring them
    back: modprobe by hand or a reboot does."""
    kernel_mappings: Annotated[tuple[KernelMapping, ...], Field(min_length=1, max_length=64)]
    """What is used on which kernel: the first that matches."""
    modprobe: ModprobeSpec
    """How modprobe is called."""


class ModuleLoader(ApiModel):
    """The kernel module and where it comes from."""

    container: ModuleLoaderContainer
    """Images and how the module in them is loaded."""
    service_account_name: Annotated[str, Field(max_length=253)] = ""
    """Accepted for compatibility: no Pod runs in the Module's namespace any more."""


class DevicePluginContainer(ApiModel):
    """The container of a device plugin or DRA driver."""

    image: ImageName
    """Image of the container."""
    command: Arguments = ()
    """Entrypoint, instead of the image's."""
    args: Arguments = ()
    """Arguments of the entrypoint."""
    env: Annotated[tuple[Opaque, ...], Field(max_length=64)] = ()
    """core/v1 EnvVar."""
    image_pull_policy: PullPolicy | None = None
    """Always, IfNotPresent or Never."""
    resources: Opaque = Field(default_factory=dict)
    """core/v1 ResourceRequirements."""
    volume_mounts: Annotated[tuple[Opaque, ...], Field(max_length=64)] = ()
    """core/v1 VolumeMount."""


class DevicePlugin(ApiModel):
    """A device plugin that runs where the module is loaded."""

    container: DevicePluginContainer
    """Its container."""
    init_container: DevicePluginContainer | None = None
    """Runs to its end before the container starts."""
    service_account_name: Annotated[str, Field(max_length=253)] = ""
    """Service account of its Pods."""
    automount_service_account_token: bool | None = None
    """Whether its Pods get a token of that account."""
    volumes: Annotated[tuple[Opaque, ...], Field(max_length=32)] = ()
    """core/v1 Volume; a hostPath must be below /dev, /sys, /var, /opt or /run."""


class DeviceClass(ApiModel):
    """A DeviceClass of the DRA driver."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the DeviceClass."""
    selectors: Annotated[tuple[Opaque, ...], Field(max_length=32)] = ()
    """resource.k8s.io DeviceSelector."""
    config: Annotated[tuple[Opaque, ...], Field(max_length=32)] = ()
    """resource.k8s.io DeviceClassConfiguration."""


class Dra(ApiModel):
    """A driver for dynamic resource allocation that runs where the module is loaded."""

    driver_name: Annotated[str, Field(max_length=253)]
    """Name of the driver, a DNS subdomain."""
    container: DevicePluginContainer
    """Its container."""
    init_container: DevicePluginContainer | None = None
    """Runs to its end before the container starts."""
    service_account_name: Annotated[str, Field(max_length=253)] = ""
    """Service account of its Pods."""
    automount_service_account_token: bool | None = None
    """Whether its Pods get a token of that account."""
    volumes: Annotated[tuple[Opaque, ...], Field(max_length=32)] = ()
    """core/v1 Volume."""
    device_classes: Annotated[tuple[DeviceClass, ...], Field(max_length=32)] = ()
    """DeviceClasses that are made for the driver."""


class ModuleSpec(ApiModel):
    """What to load on which nodes."""

    selector: dict[str, str]
    """Labels of the nodes."""
    image_repo_secret: LocalObjectReference | None = None
    """Pull secret for the kmod images, in the Module's namespace."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=64)] = ()
    """Taints that do not keep the module off a node."""
    image_rebuild_trigger_generation: int | None = None
    """Not acted on yet: a change builds and signs the images anew."""
    module_loader: ModuleLoader | None = None
    """The kernel module; a Module may have a device plugin only."""
    device_plugin: DevicePlugin | None = None
    """Not acted on yet: a device plugin that runs where the module is loaded."""
    dra: Dra | None = None
    """Not acted on yet: a DRA driver where the module is loaded; not together with devicePlugin."""


class DaemonSetStatus(ApiModel):
    """Upstream's three counters of nodes."""

    nodes_matching_selector_number: int = 0
    """Nodes that the selector matches."""
    desired_number: int = 0
    """Nodes that should have it."""
    available_number: int = 0
    """Nodes that have it."""


class ImageStatus(ApiModel):
    """The image for one kernel."""

    kernel: Annotated[str, Field(max_length=128)]
    """Kernel version."""
    image: ImageName
    """Image reference, variables replaced."""
    digest: Annotated[str, Field(max_length=80)] = ""
    """What every node of this kernel loads."""
    state: Literal["Exists", "Building", "Signing", "Missing", "Failed", "Unknown"]
    """Whether the image is there."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why not."""


class FailureStatus(ApiModel):
    """A reason for which nodes do not have the Module as they should."""

    reason: Annotated[str, Field(max_length=64)]
    """As in status.modules[].error of a NodeModulesState."""
    nodes: int
    """How many nodes fail for it."""
    node: Annotated[str, Field(max_length=253)]
    """One of them."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What that node says."""


class ModuleStatus(ApiModel):
    """What became of a Module."""

    module_loader: DaemonSetStatus | None = None
    """Counters of the kernel module."""
    device_plugin: DaemonSetStatus | None = None
    """Not set yet: counters of the device plugin."""
    dra: DaemonSetStatus | None = None
    """Not set yet: counters of the DRA driver."""
    image_rebuild_trigger_generation: int | None = None
    """Not set yet: the trigger that was acted on last."""
    observed_generation: int | None = None
    """metadata.generation that this status is about; -1 until the first look."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Ready, Reconciling, Stalled, NotActedOn, Paused, DeletionWaits."""
    images: Annotated[tuple[ImageStatus, ...], Field(max_length=256)] = ()
    """By kernel."""
    failures: Annotated[tuple[FailureStatus, ...], Field(max_length=16)] = ()
    """By reason."""


class Module(ApiModel):
    """A kernel module for the nodes that a selector matches."""

    metadata: ObjectMeta
    spec: ModuleSpec
    status: Annotated[dict[str, Any], Field(default_factory=dict)]
    """As the API server gave it, to be compared with what it should be."""

    @classmethod
    def from_object(cls, module: Mapping[str, Any]) -> "Module":
        """Decode a Module as the API server gives it. Raises pydantic.ValidationError."""
        return cls.model_validate(module)

    @property
    def ref(self) -> ModuleRef:
        """Namespace and name."""
        return ModuleRef(self.metadata.namespace, self.metadata.name)

    @property
    def deleting(self) -> bool:
        """Tell whether the Module was deleted and waits for its finalizers."""
        return self.metadata.deletion_timestamp is not None
