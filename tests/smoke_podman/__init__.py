"""Run the rendered overlay `minikube-cpu` with podman, in real containers.

engine      podman, with an image store and a configuration of its own
images      base images from Debian's packages, and the images of the lab, vLLM and Prometheus
pods        what a pod's manifest means for a container: arguments, environment, user, volumes
scrape      Prometheus' configuration, derived from the monitors as the operator would
play        start pods in order, answer their probes, run Jobs
proof       what a running lab must show
"""
