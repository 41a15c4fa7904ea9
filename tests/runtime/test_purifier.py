from immunecam.runtime.purifier import Purifier
import numpy as np
def test_quick(bundle, split_bundle, faces):
    for m in ("sample","threshold","expected"):
        a=Purifier.load(bundle,mutation=m,seed=3); b=Purifier.load(split_bundle,mutation=m,seed=3)
        A=a.purify_batch(faces); B=b.purify_batch(faces)
        print(A.timings_ms,B.timings_ms, np.abs(A.purified.astype(int)-B.purified).max(), A.purified.std())
        assert np.abs(A.purified.astype(int)-B.purified).max()<=1
