"""A phantom as a DICOM file (Digital X-Ray Image, for presentation)."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from cxr_embed.phantom.cohort import Study
from cxr_embed.phantom.physics import BITS, MAX_VALUE
from cxr_embed.phantom.render import Phantom


def dicom_bytes(study: Study, phantom: Phantom) -> bytes:
    """The file's contents: explicit little endian, 12 of 16 bits, the identity as window; the same each time."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[study.image_id, "image"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[study.image_id, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[study.image_id, "series"])
    _describe(dataset, study)
    dataset.Rows, dataset.Columns = phantom.pixels.shape
    dataset.ImagerPixelSpacing = [f"{phantom.pixel_mm:.4f}"] * 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, BITS, BITS - 1, 0
    _qualify(dataset)
    dataset.WindowCenter, dataset.WindowWidth = str((MAX_VALUE + 1) // 2), str(MAX_VALUE + 1)
    dataset.PixelData = phantom.pixels.astype("<u2").tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _qualify(dataset: Dataset) -> None:
    """What the pixels mean; the standard requires all of it (PS3.3, A.26)."""
    dataset.ImageType, dataset.LossyImageCompression, dataset.BurnedInAnnotation = ["DERIVED", "PRIMARY"], "00", "NO"
    dataset.PresentationIntentType, dataset.PresentationLUTShape = "FOR PRESENTATION", "IDENTITY"
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    # -1: brighter where less arrived.
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", -1
    dataset.PatientOrientation, dataset.ImageLaterality, dataset.DetectorType = ["L", "F"], "U", ""
    dataset.AnatomicRegionSequence, dataset.AcquisitionContextSequence = [], []


def _describe(dataset: Dataset, study: Study) -> None:
    """Who, when and how."""
    dataset.PatientID, dataset.PatientName = study.patient.patient_id, "PHANTOM^CHEST"
    dataset.PatientSex, dataset.PatientAge = study.patient.sex, f"{study.age:03d}Y"
    dataset.PatientBirthDate, dataset.ReferringPhysicianName, dataset.AccessionNumber = "", "", ""
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = study.image_id[-16:], 1, 1
    dataset.StudyDate = study.date.replace("-", "")
    dataset.StudyTime = ""
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", study.view
    dataset.Manufacturer, dataset.ImageComments = "cxr-embed", "Synthetic: no person was exposed"
