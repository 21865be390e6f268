# `mllm serve` in a container, by the commands of README.md and docs/serving.md; tests/test_docker.py compares them.
#
#   docker build -t mllm .                                      torch's own wheels: CUDA where there is a GPU
#   docker build -t mllm --build-arg TORCH_INDEX=ADDRESS .      torch's index of wheels for CPUs alone: a smaller image
#   docker run --gpus all -p 8000:8000 -e MLLM_API_KEY -v "$PWD/runs:/runs" mllm mllm serve --host 0.0.0.0 --model /runs/mine/model
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH_INDEX=
WORKDIR /mllm
COPY . .
RUN test -z "$TORCH_INDEX" || pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision
RUN pip install -e '.[serve]'
RUN useradd --create-home mllm
USER mllm
EXPOSE 8000
CMD ["mllm", "serve", "--host", "0.0.0.0"]
