from hypothesis import given
from hypothesis import strategies as st

from kmm_common.oci.errors import InvalidImageError
from kmm_daemon.images.wanted import Place, follow, link_target, member_path, place

names = st.text(max_size=60) | st.lists(
    st.sampled_from(["", ".", "..", "a", "lib", ".wh.x", "\0", "x" * 256, "\udcff"]), max_size=9
).map("/".join)
paths = st.lists(st.sampled_from(["a", "b", "lib", "..x"]), max_size=6).map("/".join)


@given(names)
def test_a_members_path_stays_in_the_image_or_is_refused(name):
    try:
        path = member_path(name)
    except InvalidImageError as error:
        assert str(error).isascii()
        return
    assert not path.startswith("/")
    assert path == "" or not {"", ".", ".."} & set(path.split("/"))
    assert member_path(path) == path


@given(paths, names)
def test_a_links_target_stays_in_the_image_or_is_refused(path, target):
    try:
        found = link_target(path, target)
    except InvalidImageError:
        return
    assert found == "" or not {"", ".", ".."} & set(found.split("/"))


@given(paths, st.dictionaries(paths.filter(bool), paths, max_size=4))
def test_following_links_ends_at_a_path_without_links_or_is_refused(path, links):
    try:
        found = follow(path, links)
    except InvalidImageError as error:
        assert "circle" in str(error)
        return
    assert not any(found == link or found.startswith(f"{link}/") for link in links)


@given(paths, paths.filter(bool))
def test_a_path_is_inside_exactly_when_it_begins_with_the_directory(path, root):
    parts, wanted = path.split("/") if path else [], root.split("/")
    expected = Place.ELSEWHERE
    if parts[: len(wanted)] == wanted:
        expected = Place.INSIDE
    elif wanted[: len(parts)] == parts:
        expected = Place.ABOVE
    assert place(path, (root,)) is expected
