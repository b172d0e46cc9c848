import asyncio

from kmm_cp.serving.turns import Turns


async def test_sweep_leaves_room_for_others_between_its_groups() -> None:
    turns, order = Turns(group=3), list[str]()

    async def stream(number: int) -> None:
        await turns.take()
        order.append(f"stream {number}")

    async def bystander() -> None:
        for _ in range(6):
            order.append("other")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for number in range(9):
            tasks.create_task(stream(number))
        tasks.create_task(bystander())
    streams = [one for one in order if one != "other"]
    assert streams == [f"stream {number}" for number in range(9)], "in order of asking"
    first, last = order.index("other"), order.index("stream 8")
    assert order[first:last].count("other") >= 2
    runs = " ".join("s" if one != "other" else "o" for one in order).split("o")
    assert max(run.count("s") for run in runs) <= 3


async def test_turn_of_a_stream_that_ended_goes_to_the_next_one() -> None:
    turns = Turns(group=1)
    streams = [asyncio.create_task(turns.take()) for _ in range(6)]
    await asyncio.sleep(0)
    streams[4].cancel()
    async with asyncio.timeout(5):
        await streams[5]
    assert streams[4].cancelled()
