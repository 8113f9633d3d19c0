"""Many machines: the same rounds on Flower's message API (the extra ``fedvpa[flower]``).

records.py     what travels: trees, posteriors and ids as Flower's records
client.py      a ClientApp: one node, one user or many
server.py      a cohort through a Grid: who is asked, what comes back, by when
simulation.py  both in Flower's local simulation, as the engine ``flower``
"""
