import sys
from test_bilevel import build, labelled, seeded
from supernetnas.search import SearchSettings
from supernetnas.search.methods import make_search, SEARCH_METHODS
import pytest
@pytest.mark.parametrize("space", ["s1","darts", "s3"])
@pytest.mark.parametrize("method", SEARCH_METHODS)
def test_smoke(method, space):
    for stopping in ("plateau","settled","eigenvalue"):
        s = make_search(method, stopping, build(space), labelled(), labelled(seed=2), settings=SearchSettings(epochs=4,batch_size=6), generator=seeded())
        s.run()
        g = s.derive()
        f = s.searched_supernet()
        print(method, space, stopping, len(s.history), s.history[-1] if s.history else None)
        if method!="pc_darts" and "random" not in method: assert f.genotype()==g
        type(s.supernet)
