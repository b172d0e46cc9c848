"""What kubelet, containerd and the network plug-in of a node are told."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

from kmm_sandbox.cluster.cgroups import LEAF, Cgroups
from kmm_sandbox.cluster.images import PAUSE
from kmm_sandbox.cluster.settings import NodeSettings


def test_a_node_on_this_kernel_keeps_its_pods_in_a_cgroup_of_its_own(tmp_path: Path) -> None:
    own = Cgroups(name="mine", places=())
    shared = NodeSettings(directory=tmp_path, number=0, cgroups=own).kubelet_content()
    assert (shared["cgroupRoot"], shared["failCgroupV1"]) == ("/mine", False)
    unified = replace(own, leaf=LEAF)
    settings = NodeSettings(directory=tmp_path, number=0, cgroups=unified).kubelet_content()
    assert settings["cgroupRoot"] == "/mine"
    assert "failCgroupV1" not in settings
    assert "cgroupRoot" not in NodeSettings(directory=tmp_path, number=1).kubelet_content()


def test_pods_of_two_nodes_have_different_addresses(tmp_path: Path) -> None:
    nodes = [NodeSettings(directory=tmp_path, number=number) for number in (1, 2)]
    assert [node.pods for node in nodes] == ["10.244.1.0/24", "10.244.2.0/24"]


def test_written_settings_are_read_by_what_they_are_for(tmp_path: Path) -> None:
    settings = NodeSettings(directory=tmp_path, number=1)
    settings.write()
    plugins = tomllib.loads(settings.containerd.read_text())["plugins"]
    runtime = plugins["io.containerd.grpc.v1.cri"]
    assert runtime["sandbox_image"] == PAUSE
    (network,) = Path(runtime["cni"]["conf_dir"]).glob("*.conflist")
    assert json.loads(network.read_text())["plugins"][0]["ipam"]["ranges"] == [
        [{"subnet": settings.pods}]
    ]
    assert json.loads(settings.kubelet.read_text()) == settings.kubelet_content()
