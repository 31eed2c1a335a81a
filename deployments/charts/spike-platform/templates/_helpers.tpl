{{- define "platform.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Takes the root and the part's name. */}}
{{- define "platform.labels" -}}
{{- $root := index . 0 -}}
{{- include "platform.selector" . }}
app.kubernetes.io/part-of: spike-pipelines
app.kubernetes.io/managed-by: {{ $root.Release.Service | quote }}
{{- end }}

{{- define "platform.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
{{- end }}

{{/* Restricted pod security. Takes root, nothing else. */}}
{{- define "platform.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 185
  runAsGroup: 185
  fsGroup: 185
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "platform.container" -}}
imagePullPolicy: {{ .Values.imagePullPolicy | quote }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "platform.anti-affinity" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 1
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "platform.selector" . | nindent 12 }}
{{- end }}
