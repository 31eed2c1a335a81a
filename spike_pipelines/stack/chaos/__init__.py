"""`spike chaos`: faults by the hundred on a real stack, each seen to work with a batch in flight, while a
reader looks on; at the end every acknowledged record is held against what readers can see.

kinds     which faults, when: pure, from a seed      sight    what the ledger shows; in flight, recovered
aim       who is hit now                             harm     the faults themselves
storm     throws them, one after the other           reader   every Iceberg snapshot against the ledger
balance   every record at the end                    report   table, sentence, JSON
"""
