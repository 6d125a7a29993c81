# The workbook on a CPU. Untried: no image could be built where this was written.
#
#   docker build -t fusioner .
#   docker run --rm -p 8888:8888 fusioner                                      # JupyterLab, at the address it prints
#   docker run --rm -v "$PWD/photos:/photos" fusioner fusioner segment /photos/a.jpg cat -o /photos/a.png
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /workbook
COPY . .
# torch and torchvision for the CPU first, a third of the size: the next command then finds them installed.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir --editable '.[workbook,runs,data]'
EXPOSE 8888
# The container's user is root, which JupyterLab refuses without --allow-root.
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "--allow-root", "--LabApp.default_url=/lab/tree/notebooks/00_the_model.ipynb"]
