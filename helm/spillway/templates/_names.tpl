{{- define "spillway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "spillway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "spillway.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: name the existing account when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "spillway.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "spillway.labels" -}}
{{ include "spillway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "spillway.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* The settings file: what the user set, and the two keys that only the chart can know. */ -}}
{{- define "spillway.settings" -}}
{{- $_ := required "settings.prometheus.url: name the Prometheus that scrapes dcgm-exporter, for example http://prometheus-operated.monitoring:9090" .Values.settings.prometheus.url -}}
{{- $known := dict "leaseName" (include "spillway.fullname" .) -}}
{{- $fixed := dict "leaseNamespace" .Release.Namespace -}}
{{- toYaml (merge dict $fixed .Values.settings $known) -}}
{{- end -}}

{{- /* The account, as a subject of role bindings. */ -}}
{{- define "spillway.subjects" -}}
- kind: ServiceAccount
  name: {{ include "spillway.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{- /* Not empty where nodes may be changed. What is free on them is known only where every namespace's pods are seen. */ -}}
{{- define "spillway.managesNodes" -}}
{{- if and .Values.nodes.manage (not .Values.settings.watchNamespaces) -}}
true
{{- end -}}
{{- end -}}
