"""Phantoms: synthetic chest radiographs from a small physical model, with findings whose place is known.

Tissue as densities, rays by Beer-Lambert, scatter, quantum noise and a detector's curve. Made for tests and
demonstrations at any scale; what is learned from them alone says nothing about patients.
"""

from cxr_embed.phantom.cohort import Study, render_study, sample_studies
from cxr_embed.phantom.findings import DEVICES, FINDINGS, PhantomFinding, sample_finding
from cxr_embed.phantom.patient import Anatomy, Patient, sample_patient
from cxr_embed.phantom.render import Phantom, render
from cxr_embed.phantom.writing import write_phantoms

__all__ = [
    "DEVICES",
    "FINDINGS",
    "Anatomy",
    "Patient",
    "Phantom",
    "PhantomFinding",
    "Study",
    "render",
    "render_study",
    "sample_finding",
    "sample_patient",
    "sample_studies",
    "write_phantoms",
]
