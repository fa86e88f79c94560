"""Opens the layers of docs/parcelwatch.qlr and runs the lines of docs/sql.md in QGIS; says in JSON what it saw, and leaves pictures.

Run by the Python that QGIS is installed for, in a folder for the pictures: `python3 tests/qgis_layers.py QLR LINES`.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

from qgis import core  # type: ignore[import-not-found]  # of the system, where there is one
from qgis.PyQt.QtCore import QDateTime, QSize, Qt  # type: ignore[import-not-found]

SIDE = 400
FOLDER = Path.cwd()
application = core.QgsApplication([], False)
application.initQgis()
warned: list[str] = []
application.messageLog().messageReceived.connect(lambda message, tag, _: warned.append(f"{tag}: {message}"))
project = core.QgsProject.instance()
is_read, why = core.QgsLayerDefinition.loadLayerDefinition(sys.argv[1], project, project.layerTreeRoot())
assert is_read, why
os.chdir(FOLDER)  # QGIS went to the folder of the layers
layers = [node.layer() for node in project.layerTreeRoot().findLayers()]

settings = core.QgsMapSettings()
settings.setLayers(layers)
settings.setOutputSize(QSize(SIDE, SIDE))


def drawn(name: str) -> list[str]:
    """Draw what there is to see into a file; return the colours of its areas."""
    drawing = core.QgsMapRendererSequentialJob(settings)
    drawing.start()
    drawing.waitForFinished()
    image = drawing.renderedImage()
    image.save(name)
    seen = Counter(image.pixelColor(x, y).name() for x in range(0, SIDE, 2) for y in range(0, SIDE, 2))
    return [colour for colour, n in seen.items() if n > 20]


def drawn_on(day: str) -> list[str]:
    """Draw a day, as the temporal controller does."""
    begins = QDateTime.fromString(f"{day}T00:00:00Z", Qt.ISODate)
    settings.setIsTemporal(True)
    settings.setTemporalRange(core.QgsDateTimeRange(begins, begins.addDays(1)))
    return drawn(f"{day}.png")


said = {
    layer.name(): {
        "is_valid": layer.isValid(),
        "key": [layer.fields()[place].name() for place in layer.primaryKeyAttributes()],
        "kind": core.QgsWkbTypes.displayString(layer.wkbType()),
        "crs": layer.crs().authid(),
        "extent": [getattr(layer.extent(), edge)() for edge in ("xMinimum", "yMinimum", "xMaximum", "yMaximum")],
        "ids": sorted(feature["source_id"] for feature in layer.getFeatures()),
    }
    for layer in layers
}
names = vars(core) | {}
exec(compile(Path(sys.argv[2]).read_text(), sys.argv[2], "exec"), names)  # the page is ours
wheat = sorted(feature["source_id"] for feature in names["wheat"].getFeatures())
settings.setExtent(names["wheat"].extent())
pictures = {"all": drawn("all.png"), "before": drawn_on("2025-05-01"), "during": drawn_on("2025-06-15")}
print(json.dumps({"layers": said, "pictures": pictures, "wheat": wheat, "warned": warned}))
