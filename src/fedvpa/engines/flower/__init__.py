"""Many machines: the same rounds on Flower's message API (the extra ``fedvpa[flower]``).

records.py     what travels: trees and ids as Flower's records
client.py      a ClientApp: one node, one user or many
server.py      a cohort through a Grid: who is asked, what comes back, by when
roster.py      who takes part in a deployment: which node hosts which client
devices.py     private state on a node's own disk
clocks.py      how far a node's clock may be off
simulation.py  both in Flower's local simulation, as the engine ``flower``
"""
