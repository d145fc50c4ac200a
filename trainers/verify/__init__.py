"""Proofs that a network cannot be fooled within a radius, and counterexamples where it can."""

from trainers.verify.artifact import Artifact, verify_artifact
from trainers.verify.cascade import AVAILABLE_METHODS, verify
from trainers.verify.radii import CertifiedRadii, certified_radii, verify_radii
from trainers.verify.second_opinion import SecondOpinion, second_opinion
from trainers.verify.verdict import StepRecord, Verdict, VerificationResult

__all__ = [
    "AVAILABLE_METHODS",
    "Artifact",
    "CertifiedRadii",
    "SecondOpinion",
    "StepRecord",
    "Verdict",
    "VerificationResult",
    "certified_radii",
    "second_opinion",
    "verify",
    "verify_artifact",
    "verify_radii",
]
