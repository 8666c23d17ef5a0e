{{/* Labels of every object. */}}
{{- define "landfall.labels" -}}
app.kubernetes.io/name: landfall
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select the pods of one component: (dict "component" "speaker"). They never change. */}}
{{- define "landfall.selector" -}}
app.kubernetes.io/name: landfall
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Image reference of one component: (dict "root" $ "component" "speaker"). */}}
{{- define "landfall.image" -}}
{{- $image := .root.Values.image -}}
{{- $path := compact (list $image.registry $image.repository .component) | join "/" -}}
{{- printf "%s:%s" $path (default .root.Chart.AppVersion $image.tag) -}}
{{- end }}

{{/* Arguments that both programs take: (dict "root" $ "port" 9640). */}}
{{- define "landfall.args" -}}
- {{ printf "--listen=[::]:%v" .port | quote }}
{{ include "landfall.commonArgs" .root }}
{{- end }}

{{/* Arguments that everything takes, also what serves nothing. */}}
{{- define "landfall.commonArgs" -}}
{{- $v := .Values -}}
- {{ printf "--log=%s" $v.log.level | quote }}
- {{ printf "--log-format=%s" $v.log.format | quote }}
- {{ printf "--load-balancer-class=%s" $v.loadBalancerClass | quote }}
- {{ printf "--default-class=%t" $v.defaultClass | quote }}
{{- end }}

{{/* Environment that both programs read. */}}
{{- define "landfall.env" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- with .Values.apiServer }}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
- name: KUBERNETES_SERVICE_PORT_HTTPS
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Probes of both programs; the kubelet asks the pod's address. */}}
{{- define "landfall.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: http
  periodSeconds: 10
  timeoutSeconds: 2
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: http
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Annotations of what exists only while the release is being removed. */}}
{{- define "landfall.hook" -}}
helm.sh/hook: post-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
