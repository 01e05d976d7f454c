{{- define "adaspa.labels" -}}
app.kubernetes.io/name: adaspa-serve
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of every object; selectors have only those above, since they may never change. */}}
{{- define "adaspa.allLabels" -}}
{{ include "adaspa.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Of what a Prometheus operator reads; those that it selects by may be ours with another value. */}}
{{- define "adaspa.monitoringLabels" -}}
{{- $own := include "adaspa.allLabels" (dict "root" . "component" "monitoring") | fromYaml }}
{{- merge (deepCopy .Values.monitoring.labels) $own | toYaml }}
{{- end }}

{{- define "adaspa.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (printf "%s-adaspa" .Release.Name) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* Of an entry of models: what tells its workers from those of the model's other entries, and what names its objects. */}}
{{- define "adaspa.ofQueue" -}}
{{- with .only }}-{{ . }}{{ end }}
{{- end }}

{{- define "adaspa.workerName" -}}
{{ .id | replace "." "-" | replace "_" "-" }}{{ include "adaspa.ofQueue" . }}
{{- end }}

{{- define "adaspa.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* A secret, drawn once: what the cluster has under this name and key already, else a new one. */}}
{{- define "adaspa.drawn" -}}
{{- $before := lookup "v1" "Secret" .root.Release.Namespace .name | default dict }}
{{- dig "data" .key "" $before | default (randAlphaNum 48 | b64enc) }}
{{- end }}

{{- /* Changes with a Secret that a part of the release reads, where Helm may ask the cluster: an upgrade then replaces its
       pods. The version, since pods are shown to more people than secrets are; those that the chart draws stay the same. */}}
{{- define "adaspa.secretVersions" -}}
{{- $values := .root.Values }}
{{- $names := list $values.storage.existingSecret (ternary $values.redis.embedded $values.redis $values.redis.embedded.enabled).existingSecret.name }}
{{- if .isGateway }}
{{- $names = append $names $values.access.existingSecret.name }}
{{- range $values.secretSettings }}{{ $names = append $names .name }}{{ end }}
{{- end }}
{{- $versions := dict }}
{{- range compact $names }}
{{- $found := lookup "v1" "Secret" $.root.Release.Namespace . | default dict }}
{{- $_ := set $versions . (dig "metadata" "resourceVersion" "" $found) }}
{{- end }}
{{- toJson $versions | sha256sum }}
{{- end }}

{{/* Not empty where all that mounts the videos' volume has to be on one node. */}}
{{- define "adaspa.oneNode" -}}
{{- if and (not .Values.storage.url) (eq .Values.storage.volume.accessMode "ReadWriteOnce") }}true{{ end }}
{{- end }}

{{- /* The affinity of gateway or workers. On one node, the first worker finds it, and the others follow; the only one
       comes back to where the gateway has the volume. */}}
{{- define "adaspa.affinity" -}}
{{- $affinity := deepCopy .own }}
{{- if include "adaspa.oneNode" .root }}
{{- $labels := dict "app.kubernetes.io/instance" .root.Release.Name }}
{{- $pods := $affinity.podAffinity | default dict }}
{{- $terms := $pods.requiredDuringSchedulingIgnoredDuringExecution | default list }}
{{- $worker := dict "matchLabels" (merge (dict "adaspa-serve/role" "worker") $labels) }}
{{- $terms = append $terms (dict "topologyKey" "kubernetes.io/hostname" "labelSelector" $worker) }}
{{- $_ := set $pods "requiredDuringSchedulingIgnoredDuringExecution" $terms }}
{{- if .isWorker }}
{{- $wishes := $pods.preferredDuringSchedulingIgnoredDuringExecution | default list }}
{{- $gateway := dict "matchLabels" (merge (dict "app.kubernetes.io/component" "gateway") $labels) }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" $gateway }}
{{- $_ := set $pods "preferredDuringSchedulingIgnoredDuringExecution" (append $wishes (dict "weight" 100 "podAffinityTerm" $term)) }}
{{- end }}
{{- $_ := set $affinity "podAffinity" $pods }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}

{{- /* Taints that a model's workers bear: those that it names, and that of a device among its limits, as clouds put on
       the nodes that have one. */}}
{{- define "adaspa.workerTolerations" -}}
{{- $borne := .tolerations | default list }}
{{- range $resource, $_ := .resources.limits }}
{{- if contains "/" $resource }}{{ $borne = append $borne (dict "key" $resource "operator" "Exists" "effect" "NoSchedule") }}{{ end }}
{{- end }}
{{- toYaml $borne }}
{{- end }}

{{/* Taints that a gateway bears: on one node, those of the workers too. */}}
{{- define "adaspa.gatewayTolerations" -}}
{{- $borne := .Values.gateway.tolerations }}
{{- if include "adaspa.oneNode" . }}
{{- range .Values.models }}{{ $borne = concat $borne (include "adaspa.workerTolerations" . | fromYamlArray) }}{{ end }}
{{- end }}
{{- toYaml (uniq $borne) }}
{{- end }}

{{/* How many workers an entry of models may have. */}}
{{- define "adaspa.mostWorkers" -}}
{{- if and .autoscaling .autoscaling.enabled }}{{ int .autoscaling.maxReplicas }}{{ else }}{{ int .replicas }}{{ end }}
{{- end }}

{{- define "adaspa.fewestWorkers" -}}
{{- if and .autoscaling .autoscaling.enabled }}{{ int .autoscaling.minReplicas }}{{ else }}{{ int .replicas }}{{ end }}
{{- end }}

{{- define "adaspa.checkCache" -}}
{{- $cache := .modelCache }}
{{- if and $cache.existingClaim $cache.size }}{{ fail "models.modelCache: existingClaim and size are both there; name a volume that is there or the size of a new one" }}{{ end }}
{{- if and $cache.existingClaim (or $cache.accessMode $cache.storageClass) }}{{ fail "models.modelCache: accessMode and storageClass are of a new volume; existingClaim names one that is there" }}{{ end }}
{{- if and $cache.readOnly $cache.size }}{{ fail "models.modelCache.readOnly: a new volume is empty; allowed with existingClaim, for a volume that holds the model" }}{{ end }}
{{- $most := include "adaspa.mostWorkers" . | int }}
{{- if and $cache.size (gt $most 1) (ne ($cache.accessMode | default "ReadWriteOnce") "ReadWriteMany") }}
{{- fail (printf "models.modelCache.accessMode: a ReadWriteOnce volume is for one node, and %s may have %d workers; allowed: ReadWriteMany, or one worker" .id $most) }}
{{- end }}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "adaspa.check" -}}
{{- if and (not .Values.redis.embedded.enabled) (not .Values.redis.existingSecret.name) }}
{{- fail "redis.existingSecret.name: is empty; name a Secret with the Redis URL, or set redis.embedded.enabled to true" }}
{{- end }}
{{- if and .Values.redis.embedded.enabled .Values.redis.existingSecret.name }}
{{- fail "redis: embedded.enabled and existingSecret.name are both there; set embedded.enabled to false to use the Redis of the Secret" }}
{{- end }}
{{- /* Kubernetes labels a StatefulSet's pods with its name, a hyphen and a hash of ten; KEDA what it scales with its name. */}}
{{- if and .Values.redis.embedded.enabled (gt (len .Release.Name) 46) }}
{{- fail (printf "release: the name %s has %d characters; allowed with redis.embedded.enabled: 46" .Release.Name (len .Release.Name)) }}
{{- end }}
{{- with .Values.worker.kernelCache }}{{ if and .existingClaim .size }}{{ fail "worker.kernelCache: existingClaim and size are both there; name a volume that is there or the size of a new one" }}{{ end }}{{ end }}
{{- with .Values.gateway.autoscaling }}{{ if lt (int .maxReplicas) (int .minReplicas) }}{{ fail "gateway.autoscaling: maxReplicas is below minReplicas" }}{{ end }}{{ end }}
{{- range $part := list "gateway" "worker" }}
{{- range (get $.Values $part).extraEnv }}
{{- if hasPrefix "ADASPA_" .name }}{{ fail (printf "%s.extraEnv: %s is a setting; it belongs into settings or secretSettings" $part .name) }}{{ end }}
{{- end }}
{{- end }}
{{- if and .Values.access.open .Values.access.existingSecret.name }}{{ fail "access: open and existingSecret.name are both there; with open, no key is asked for" }}{{ end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host: is empty; name the host that the ingress serves" }}{{ end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs: is empty; name the Gateway to attach to" }}{{ end }}
{{- range $name := list "bootstrap_key" "signing_secret" "webhook_secrets" "prompt_check_token" "redis_url" }}
{{- if hasKey $.Values.settings $name }}{{ fail (printf "settings.%s: is a secret; name a Secret that holds it in secretSettings, redis or access" $name) }}{{ end }}
{{- end }}
{{- $served := list "demo" "demo-image" }}
{{- with .Values.catalog }}
{{- $served = list }}
{{- range . }}
{{- if has .id $served }}{{ fail (printf "catalog: %s is there twice" .id) }}{{ end }}
{{- $served = append $served .id }}
{{- end }}
{{- end }}
{{- $names := list }}
{{- $queues := dict }}
{{- $fewest := 0 }}
{{- range .Values.models }}
{{- $model := . }}
{{- if not (has .id $served) }}{{ fail (printf "models: %s is not in the catalog; there is %s" .id (join ", " $served)) }}{{ end }}
{{- $gpus := include "adaspa.gpus" (dict "root" $ "id" .id) | int }}
{{- range $resource, $count := .resources.limits }}
{{- if and (contains "/" $resource) (lt (int $count) $gpus) }}
{{- fail (printf "models.resources.limits: %s has %d of %s, and its catalog entry says gpus: %d" $model.id (int $count) $resource $gpus) }}
{{- end }}
{{- end }}
{{- $name := include "adaspa.workerName" . }}
{{- if has $name $names }}{{ fail (printf "models: worker-%s is there twice; an id may be there once without only, and once with each queue" $name) }}{{ end }}
{{- $names = append $names $name }}
{{- $_ := set $queues .id (concat (get $queues .id | default list) (ternary (list "interactive" "bulk") (list .only) (empty .only))) }}
{{- if .modelCache }}{{ include "adaspa.checkCache" . }}{{ end }}
{{- $fewest = add $fewest (include "adaspa.fewestWorkers" .) }}
{{- with .autoscaling }}{{ if lt (int .maxReplicas) (int .minReplicas) }}{{ fail "models.autoscaling: maxReplicas is below minReplicas" }}{{ end }}{{ end }}
{{- if and .autoscaling .autoscaling.enabled }}
{{- $scaler := printf "%s-worker-%s" $.Release.Name $name }}
{{- if gt (len $scaler) 63 }}{{ fail (printf "models.autoscaling: KEDA takes names of 63 characters, and %s has %d; shorten the release's name or the model's id" $scaler (len $scaler)) }}{{ end }}
{{- if .only }}{{ fail (printf "models.only: %s is scaled by the jobs of both queues; say replicas, without autoscaling" .id) }}{{ end }}
{{- if eq (.autoscaling.scaleDown | default "idle") "idle" }}
{{- range $.Values.models }}
{{- if and .only (eq .id $model.id) }}{{ fail (printf "models.autoscaling.scaleDown: idle would count the workers of %s that serve one queue only; allowed beside them: any" .id) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (include "adaspa.oneNode" .) (not $fewest) }}
{{- fail "storage.volume.accessMode: with ReadWriteOnce gateways run where a worker does, and all models may have none; allowed: ReadWriteMany, a storage.url, or a model with replicas or minReplicas of at least 1" }}
{{- end }}
{{- range $id, $queuesServed := $queues }}
{{- range list "interactive" "bulk" }}
{{- if not (has . $queuesServed) }}{{ fail (printf "models: nobody would serve the %s queue of %s; leave only out of one entry, or add another" . $id) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What of a pod's placement is neither labels of nodes nor affinity; selector: the labels of its Deployment's pods. */}}
{{- define "adaspa.placement" -}}
{{- with .own.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .own.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
{{- $ofPods := dict "labelSelector" (dict "matchLabels" (fromYaml $.selector)) }}
  - {{- merge (deepCopy .) (ternary dict $ofPods (hasKey . "labelSelector")) | toYaml | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The password of the chart's own Redis, under the name that its reader gives it. */}}
{{- define "adaspa.redisPassword" -}}
{{- with .root.Values.redis.embedded.existingSecret -}}
- name: {{ $.name }}
  valueFrom: {secretKeyRef: {name: {{ .name | default (printf "%s-redis" $.root.Release.Name) | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}

{{- define "adaspa.env" -}}
{{- if .Values.redis.embedded.enabled }}
{{- include "adaspa.redisPassword" (dict "root" . "name" "REDIS_PASSWORD") }}
{{- end }}
- name: ADASPA_REDIS_URL
{{- if .Values.redis.embedded.enabled }}
  value: redis://:$(REDIS_PASSWORD)@{{ .Release.Name }}-redis:6379/0
{{- else }}
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.existingSecret.name | quote }}, key: {{ .Values.redis.existingSecret.key | quote }}}}
{{- end }}
- name: ADASPA_STORAGE_URL
  value: {{ .Values.storage.url | default "/videos" | quote }}
- name: ADASPA_METRICS_PORT
  value: "9100"
- name: ADASPA_LOG_FORMAT
  value: json
- name: HOME
  value: /tmp
{{- if .Values.catalog }}
- name: ADASPA_CATALOG
  value: /etc/adaspa/catalog.json
{{- end }}
{{- /* A number is a float64 here, which toString and a bare action write as 2.592e+06; JSON has 2592000. */}}
{{- range $name, $value := .Values.settings }}
- name: ADASPA_{{ upper $name }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* A container's variables and the extraEnv of its part: of one that is there twice, Kubernetes takes the latter and an
       upgrade may drop either. env: the chart's own, YAML. */}}
{{- define "adaspa.withExtraEnv" -}}
{{- $names := list }}
{{- range concat (fromYamlArray .env) .own.extraEnv }}
{{- if has .name $names }}{{ fail (printf "%s.extraEnv: %s is there twice, or is a variable of the chart's own" $.part .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- .env }}
{{- with .own.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The names under which the gateway may be asked for, between commas: of its Service, of what leads there, and others. */}}
{{- define "adaspa.hosts" -}}
{{- $service := printf "%s-gateway" .Release.Name }}
{{- $inside := printf "%s.%s" $service .Release.Namespace }}
{{- $names := list $service $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside) }}
{{- if .Values.ingress.enabled }}{{ $names = append $names .Values.ingress.host }}{{ end }}
{{- if .Values.httpRoute.enabled }}{{ $names = concat $names .Values.httpRoute.hostnames }}{{ end }}
{{- concat $names .Values.access.hosts | join "," }}
{{- end }}

{{/* The first API key, under the name that its reader gives it. */}}
{{- define "adaspa.apiKey" -}}
{{- with .root.Values.access.existingSecret -}}
- name: {{ $.name }}
  valueFrom: {secretKeyRef: {name: {{ .name | default (printf "%s-api-key" $.root.Release.Name) | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}

{{/* Settings of the gateway that are secrets. */}}
{{- define "adaspa.secretSettings" -}}
{{- range $name, $secret := .Values.secretSettings }}
- name: ADASPA_{{ upper $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }}}}
{{- end }}
{{- end }}

{{- define "adaspa.envFrom" -}}
{{- $sources := .own.extraEnvFrom }}
{{- with .root.Values.storage.existingSecret }}{{ $sources = prepend $sources (dict "secretRef" (dict "name" .)) }}{{ end }}
{{- with $sources }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "adaspa.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.catalog }}
- {name: catalog, mountPath: /etc/adaspa, readOnly: true}
{{- end }}
{{- if not .Values.storage.url }}
- {name: videos, mountPath: /videos}
{{- end }}
{{- end }}

{{- define "adaspa.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: {{ .own.tmpSize }}}}
{{- if .root.Values.catalog }}
- {name: catalog, configMap: {name: {{ .root.Release.Name }}-catalog}}
{{- end }}
{{- if not .root.Values.storage.url }}
- {name: videos, persistentVolumeClaim: {claimName: {{ .root.Release.Name }}-videos}}
{{- end }}
{{- end }}

{{- /* How many GPUs of a pod make each video of a model together. */}}
{{- define "adaspa.gpus" -}}
{{- $id := .id }}
{{- $gpus := 1 }}
{{- range .root.Values.catalog }}{{ if eq .id $id }}{{ $gpus = .gpus | default 1 }}{{ end }}{{ end }}
{{- int $gpus }}
{{- end }}
