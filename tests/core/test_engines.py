from __future__ import annotations

import numpy as np
import pytest

from emamba import engines
from emamba.engines import Engine, EngineError, MirrorEngine, open_engine
from emamba.fixed import IntegerModel, Mirror
from random_models import MARS_CONFIG, random_model

MODEL = random_model(MARS_CONFIG, 0)


def test_the_mirror_engine_gives_the_mirrors_bits() -> None:
    engine = open_engine("mirror", MODEL)
    batch = np.random.default_rng(0).integers(-127, 128, (3, 8, 8, 5)).astype(np.int8)
    np.testing.assert_array_equal(engine.run(batch), Mirror(MODEL).run(batch))
    assert engine.info.name == "mirror"
    engine.close()


def test_auto_takes_the_first_that_opens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(model: IntegerModel) -> Engine:
        raise EngineError("no board here")

    found = {"board": broken, "mirror": MirrorEngine}
    monkeypatch.setattr(engines, "ENGINES", found)
    assert open_engine("auto", MODEL).info.name == "mirror"
    assert caplog.messages == ["engine board does not open, trying the next: no board here"]
    with pytest.raises(EngineError, match="no board here"):
        open_engine("board", MODEL)
    monkeypatch.setattr(engines, "ENGINES", {"board": broken})
    with pytest.raises(EngineError, match=r"no engine opens \(board: no board here\)"):
        open_engine("auto", MODEL)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(EngineError, match="engine must be one of auto, native, mirror; not 'gpu'"):
        open_engine("gpu", MODEL)


def test_a_record_says_who_computed() -> None:
    engine = MirrorEngine(MODEL)
    batch = np.zeros((2, *MODEL.config.input_shape), np.int8)
    recorded = engine.record(batch)
    np.testing.assert_array_equal(recorded.outputs, engine.run(batch))
    assert (recorded.engine, dict(recorded.stages_s)) == ("mirror", {})
    assert engine.status.state == "ready"
