"""Strategies and builders for desired and reported modules."""

from dataclasses import replace

from hypothesis import strategies as st

from kmm_common.desired import (
    DesiredModule,
    Modprobe,
    ModprobeArgs,
    ModuleFailure,
    ModuleState,
    RegistryTLS,
    ReportedModule,
    config_hash,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.text("abcxyz-.", min_size=1, max_size=8)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
ARGS = st.builds(ModprobeArgs, load=TEXTS, unload=TEXTS)

DESIRED = st.builds(
    DesiredModule,
    namespace=NAMES,
    name=NAMES,
    uid=TEXT,
    kernel_version=TEXT,
    image=TEXT,
    image_digest=TEXT,
    image_pull_policy=TEXT,
    pull_secret=TEXT,
    registry_tls=st.builds(
        RegistryTLS, insecure=st.booleans(), insecure_skip_tls_verify=st.booleans()
    ),
    in_tree_modules_to_remove=TEXTS,
    modprobe=st.builds(
        Modprobe,
        module_name=TEXT,
        dir_name=TEXT,
        parameters=TEXTS,
        args=ARGS,
        raw_args=ARGS,
        firmware_path=TEXT,
        modules_loading_order=TEXTS,
    ),
    config_hash=TEXT,
    conflicts_with=TEXT,
    version=TEXT,
    retry=TEXT,
)

FAILURES = st.builds(
    ModuleFailure,
    reason=NAMES,
    message=TEXT,
    exit_code=st.none() | st.integers(-(2**31), 2**31 - 1),
    kernel_log=st.lists(TEXT.filter(bool), max_size=4).map(tuple),
)

REPORTED = st.builds(
    ReportedModule,
    namespace=NAMES,
    name=NAMES,
    uid=TEXT,
    state=st.sampled_from(ModuleState),
    in_kernel=st.booleans(),
    image_digest=TEXT,
    config_hash=TEXT,
    attempts=st.integers(0, 2**32 - 1),
    since_ms=st.integers(0, 2**42),
    error=st.none() | FAILURES,
    retrying=st.booleans(),
    warning=TEXT,
)


def desired(
    name: str = "simple", *, parameters: tuple[str, ...] = (), secret: str = ""
) -> DesiredModule:
    """Return a desired module of namespace default, config hash included."""
    module = DesiredModule(
        namespace="default",
        name=name,
        uid=f"uid-{name}",
        kernel_version="6.1.0",
        image=f"registry.example/{name}:1",
        image_digest=f"sha256:{'1' * 64}",
        pull_secret=secret,
        modprobe=Modprobe(module_name=name, parameters=parameters),
    )
    return replace(module, config_hash=config_hash(module))


def reported(
    name: str = "simple", state: ModuleState = ModuleState.LOADED, *, since_ms: int = 1000
) -> ReportedModule:
    """Return the report of a module in a state."""
    module = desired(name)
    return ReportedModule(
        namespace=module.namespace,
        name=module.name,
        uid=module.uid,
        state=state,
        in_kernel=state is ModuleState.LOADED,
        image_digest=module.image_digest,
        config_hash=module.config_hash,
        since_ms=since_ms,
    )
