"""How packages are named in a bill of materials."""

from email.parser import HeaderParser

from images import sbom


def test_package_of_debian_has_its_epoch_and_architecture_in_its_purl() -> None:
    text = "Package: zlib1g\nArchitecture: amd64\nVersion: 1:1.2.13.dfsg-1+b1\nDescription: x\n y\n"
    component = sbom.debian_component(HeaderParser().parsestr(text))
    assert component["version"] == "1:1.2.13.dfsg-1+b1"
    assert component["purl"] == (
        "pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1%2Bb1?arch=amd64&distro=debian-12"
    )


def test_distribution_is_named_as_its_index_does_and_has_a_licence_only_if_it_says_one() -> None:
    text = "Name: ruamel.Yaml_x\nVersion: 1.0\nLicense-Expression: MIT OR Apache-2.0\n\nText\n"
    component = sbom.python_component(HeaderParser().parsestr(text))
    assert component["purl"] == "pkg:pypi/ruamel-yaml-x@1.0"
    assert component["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert "licenses" not in sbom.python_component(HeaderParser().parsestr("Name: a\nVersion: 1\n"))
