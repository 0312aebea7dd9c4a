"""The transcript: lines that run."""

from embnoise.testing.transcript import Transcript


def test_what_it_writes():
    transcript = Transcript()
    transcript.write("forgotten")
    transcript.set("x", "1")
    transcript.clear()
    transcript.set("x", "1")
    transcript.call("f(x)")
    transcript.set("x", "1")
    with transcript.paused():
        transcript.set("x", "2")
        transcript.call("g(x)")
    transcript.set("x", "3")
    transcript.loop(2, "f(x)", comment="twice")
    with transcript.block("with a:"), transcript.block("with b:"):
        transcript.call("f(x)")
    with transcript.block("with nothing:"):
        pass
    transcript.write("end")
    assert transcript.lines == [
        "x = 1",
        "y1 = f(x)",
        "x = 3",
        "for _ in range(2):  # twice",
        "    f(x)",
        "with a:",
        "    with b:",
        "        y2 = f(x)",
        "with nothing:",
        "    pass",
        "end",
    ]
