"""Features of a split where batches are gathered from them: all in a device's memory, or those of two passes."""

from trainables.data.device.frames import DeviceFrames, StreamedFrames
from trainables.data.device.placement import DeviceMemory, frames_on

__all__ = ["DeviceFrames", "DeviceMemory", "StreamedFrames", "frames_on"]
