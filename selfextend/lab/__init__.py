"""The lab: probes of long-context reading, for any model, any method and the user's own texts.

What is to be measured is a plan; a plan is run cell by cell (`selfextend.lab.plans`); a cell gives rows
(`selfextend.lab.records`); tables and figures are made from rows (`selfextend.lab.tables`, `selfextend.lab.views`).
"""
