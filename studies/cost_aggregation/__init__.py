"""How well words carry over to classes that were held out: the bars of a run, and a study of settings by them."""
